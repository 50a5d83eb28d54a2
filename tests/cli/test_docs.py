"""Every code block of the README and of docs/, run as printed."""

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import urllib.parse

import pytest
from doc_blocks import CODE, NO_CODE, PAGES, ROOT, anchors, blocks, cells, commands, links
from doc_runner import NOT_RUN, Runner, parse, reason_not_run
from doc_world import fill_downloads, make_home, make_hub, photos_server

BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}
# What a page must have shown in the end, besides ending well.
SHOWN = {
    "README.md": ["cat.jpg True (", "dog.png True ("],
    "docs/quickstart.md": ['"examples": 6', "photos/test/cat/0.jpg: ", "6 images in 1 files"],
    "docs/client.md": ["no answer: missing.jpg", "NOT_FOUND", "did not answer within"],
}
# Modules whose public functions and classes the API reference holds.
REFERENCE = (
    "keras_vit", "keras_vit.explain", "keras_vit.layers", "serving", "serving.client",
    "training.data", "training.evaluation", "training.probes", "training.report",
)  # fmt: skip
SLOW = {"docs/devices.md", "docs/fine_tuning.md"}  # start workers; train, judge and export
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
RUN = [name for name, found in BLOCKS.items() if any(block.language in CODE for block in found)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Caches of this module's own, with everything that the pages load from elsewhere."""
    folder = tmp_path_factory.mktemp("caches")
    make_hub(folder / "hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_VIT_CACHE", str(folder / "cache"))
        fill_downloads(folder / "cache")
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TFDS_DATA_DIR", str(folder / "tfds"))
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("template")
    make_home(home)
    return home


@pytest.fixture(scope="module")
def server(template):
    with photos_server(template) as running:
        yield running


@pytest.fixture
def run_page(environment, template, server, tmp_path):
    """A function that runs the blocks of a page: the runner, with what was printed."""
    runners = []

    def run(name):
        home = tmp_path / "home"
        shutil.copytree(template, home)
        runners.append(Runner(home, server))
        for block in BLOCKS.get(name) or cells(ROOT / name):
            runners[0].run(block)
        return runners[0]

    yield run
    for runner in runners:
        runner.close()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RUN]
)
def test_the_blocks_run(name, run_page):
    page = run_page(name)
    for text in SHOWN.get(name, ()):
        assert text in page.output


@pytest.mark.slow
def test_the_notebook_runs(run_page):
    run_page("docs/notebook.ipynb")


def test_the_notebook_has_no_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    kept = [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    assert not kept, "clear the outputs: they change with every run"


def test_every_block_has_a_language_that_is_known():
    unknown = [
        f"{block}: {block.language!r}"
        for found in BLOCKS.values()
        for block in found
        if block.language not in CODE | NO_CODE
    ]
    assert not unknown, f"run, or text? {unknown}"


def test_no_code_hides_in_a_block_of_text():
    signs = ("keras-vit ", "from ", "import ")
    hidden = [
        str(block)
        for found in BLOCKS.values()
        for block in found
        if block.language not in CODE
        and not block.needs
        and any(line.startswith(signs) for line in block.text.splitlines())
    ]
    assert not hidden


def test_links_lead_somewhere():
    """Files and headings are there; addresses elsewhere are well-formed, and are not visited."""
    wrong = []
    for page in PAGES:
        for target in links(page):
            if target.startswith(("http:", "https:", "mailto:")):
                parts = urllib.parse.urlsplit(target)
                good = parts.scheme == "https" and "." in (parts.hostname or "")
            else:
                path, _, anchor = target.partition("#")
                file = (page.parent / path).resolve() if path else page
                good = file.exists() and (not anchor or anchor in anchors(file))
            if not good:
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    site = tmp_path / "site"
    options = ["-W", "-n", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    # In a process of its own: autodoc imports modules anew, and a model that has parts of both
    # imports drops units at inference.
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(site)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in PAGES[1:]:
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    assert "[B, H, W, C]" in (site / "api" / "keras_vit.html").read_text()  # shapes
    reference = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for module in REFERENCE:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            entry = rf'<dt class="sig [^>]*id="[\w.]+\.{name}">'
            value = getattr(loaded, name)
            if inspect.isfunction(value):
                entry += r"(?:(?!</dt>).)*sig-paren"
            if inspect.isfunction(value) or inspect.isclass(value):
                assert re.search(entry, reference, re.DOTALL), f"{module}.{name}"
    # Sentences with a colon, which are no types.
    assert "s order: by family, then by the alphabet.</p>" in reference


def test_no_entry_of_the_list_is_superfluous():
    """What is not run is a short list; an entry that nothing needs hides what comes later."""
    found = {
        reason_not_run(command)
        for page in BLOCKS.values()
        for block in page
        if block.language == "sh"
        for command in commands(block)
    }
    assert found - {None} == set(NOT_RUN)


def test_wrong_arguments_are_seen_without_running():
    parse(["bench", "inference", "vit_small_patch16_224", "--against", "timm"])
    with pytest.raises(pytest.fail.Exception, match="--against-all"):
        parse(["bench", "inference", "vit_small_patch16_224", "--against-all"])
