"""The report of an evaluation: its numbers, what it shows, and that one file is all there is."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.explain import attention_rollout
from training.data.folder_source import FolderSource
from training.evaluation import evaluate
from training.report import collect, examine, write_report
from training.report.pictures import blend, pictures

NASTY = "<script>alert('x')</script> & \"co\""
LABELS = ("ape", NASTY, "cat")
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """What a browser would see; refuses elements that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def named(self, name):
        return [attributes for element, attributes in self.elements if element == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """30 pictures in three classes; one file and one class have the name of an attack."""
    from PIL import Image

    home = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    files = []
    for index in range(30):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = home / (f"{index}.png" if index else "<img src=x onerror=y>.png")
        Image.fromarray(coarse).resize((20, 20)).save(path)
        files.append((path, index % 3))
    return FolderSource("folder:p", LABELS, {"train": files, "test": files})


def small_model(labels, seed=0, image_size=16):
    """With weights that are not zero, also in the head."""
    import keras

    keras.utils.set_random_seed(seed)
    model = VisionTransformer(
        image_size, 4, hidden_dim=16, depth=2, num_heads=2, num_classes=len(labels), labels=labels
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(seed).normal(0, 0.5, kernel.shape))
    return model


@pytest.fixture(scope="module")
def models():
    """Two models that know the classes in different orders, one of them others too."""
    return small_model(LABELS), small_model(("dog", *LABELS[::-1], "eel"), 1, 24)


@pytest.fixture(scope="module")
def both(models, source):
    first = examine(models[0], source, batch_size=8, title="runs/<b>one</b>")
    return first, examine(models[1], source, batch_size=8, title="two", first=first)


def names(source):
    """The paths of its files."""
    return [each["name"].decode() for each in source.examples("test").as_numpy_iterator()]


def logits(model, source):
    """In float64, and what the head saw."""
    examples = list(source.examples("test").as_numpy_iterator())
    images = tf.stack([model.preprocessing(example["image_bytes"]) for example in examples])
    features = np.asarray(model.representation_model()(images))
    return np.asarray(model(images), np.float64), features


def shares(values):
    return np.exp(values) / np.exp(values).sum(-1, keepdims=True)


def test_what_is_kept_agrees_with_numpy(both, source):
    labels = np.arange(30) % 3
    correct = []
    for findings, outputs in zip(both, ([0, 1, 2], [3, 2, 1]), strict=True):
        values, features = logits(findings.model, source)
        probabilities = shares(values)
        right = np.array(outputs)[labels]
        np.testing.assert_array_equal(findings.right, right)
        np.testing.assert_array_equal(findings.best, values.argmax(-1))
        np.testing.assert_allclose(findings.confidences, probabilities.max(-1), atol=1e-5)
        expected = probabilities[np.arange(30), right]
        np.testing.assert_allclose(findings.right_probabilities, expected, atol=1e-5)
        np.testing.assert_array_equal(findings.sampled, np.arange(30))
        np.testing.assert_allclose(findings.features, features, atol=1e-5)
        correct.append(values.argmax(-1) == right)
        confidence = probabilities.max(-1)
        wrong = [place for place in np.argsort(-confidence) if not correct[-1][place]]
        assert [example.place for example in findings.mistakes] == wrong[:12]
        hits = [place for place in np.argsort(confidence) if correct[-1][place]]
        assert [example.place for example in findings.hits] == hits[:12]
        plain = evaluate(findings.model, source, batch_size=8)
        assert plain.top1 == findings.evaluation.top1
        np.testing.assert_array_equal(plain.confusion, findings.evaluation.confusion)
    first, second = both
    for kept, wanted in (
        (second.only_first, correct[0] & ~correct[1]),
        (second.only_second, correct[1] & ~correct[0]),
    ):
        gap = np.abs(first.right_probabilities - second.right_probabilities)
        expected = [place for place in np.argsort(-gap, kind="stable") if wanted[place]][:12]
        assert [example.place for example in kept] == expected
    assert second.only_first or second.only_second
    bytes_of = [example["image_bytes"] for example in source.examples("test").as_numpy_iterator()]
    for example in first.mistakes + second.hits + second.only_first:
        assert example.image_bytes == bytes_of[example.place]
        assert example.name.encode() == first.names[example.place]


def test_of_many_examples_few_are_kept(models, source, monkeypatch):
    monkeypatch.setattr(collect, "PICTURES", 2)
    monkeypatch.setattr(collect, "MAP_POINTS", 11)
    findings = examine(models[0], source, batch_size=7)
    assert len(findings.mistakes) == len(findings.hits) == 2
    assert findings.features.shape == (11, 16)
    assert len(set(findings.sampled)) == 11
    again = examine(models[0], source, batch_size=30)
    np.testing.assert_array_equal(again.sampled, findings.sampled)
    assert again.mistakes == findings.mistakes


def test_the_page_of_one_model(both, tmp_path):
    lines = []
    path = write_report(both[0], tmp_path / "new", data="folder:p", report=lines.append)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    e = both[0].evaluation
    for number in (f"{100 * e.top1:.2f} %", f"{100 * e.calibration_error:.2f} %", f"{e.loss:.4f}"):
        assert number in page.words
    assert "folder:p, split test, 30 examples" in page.words
    assert not lines
    # Every name is text and nothing else.
    assert "runs/<b>one</b>" in page.words
    assert NASTY in page.words
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert len(page.named("script")) == 1
    assert "<img src=x onerror=y>.png" in page.words
    # It needs nothing from elsewhere, and is for all readers.
    for attributes in (attributes for _, attributes in page.elements):
        for name in ("src", "href", "data", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert not re.search(r"url\(|@import|https?://", text)
    assert all(attributes["alt"] for attributes in page.named("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    assert len(page.named("caption")) == len(page.named("table")) > 3
    assert all("scope" in attributes for attributes in page.named("th"))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {link["href"][1:] for link in page.named("a")} <= ids
    # A dot for each example, a ring for each mistake.
    circles = page.named("circle")
    assert len(circles) == 30
    wrong = sum(circle.get("class") == "wrong" for circle in circles)
    assert wrong == 30 - both[0].correct.sum()
    assert len(page.named("img")) == 2 * len(both[0].mistakes + both[0].hits)


def test_the_page_of_two_models(both, tmp_path):
    first, second = both
    page = Page(write_report(first, tmp_path, second, data="folder:p").read_text())
    a, b = first.correct, second.correct
    change = 100 * (b.mean() - a.mean())
    assert f"The top-1 of B minus that of A is {change:+.2f} points" in page.words
    table = f"A right {np.sum(a & b)} {np.sum(a & ~b)} A wrong {np.sum(b & ~a)} {np.sum(~a & ~b)}"
    assert table in page.words
    # Each class is one row, whatever the order of the outputs.
    for label, place in (("ape", 0), ("cat", 2)):
        own = np.arange(30) % 3 == place
        row = f"{label} 10 {100 * a[own].mean():.2f} %"
        assert row in page.words
        assert f"{100 * (b[own].mean() - a[own].mean()):+.2f} points" in page.words
    assert len(page.named("circle")) == 60
    assert all(attributes["alt"] for attributes in page.named("img"))


def test_the_overlay_is_the_rollout(models, source):
    example = next(iter(source.examples("test").as_numpy_iterator()))
    made = pictures(models[0], [collect.Example(0, "a", example["image_bytes"])])
    image = models[0].preprocessing(example["image_bytes"])[None]
    heat = np.asarray(attention_rollout(models[0], image))[0]
    from PIL import Image

    def pixels(address):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))), float)

    seen, overlay = pixels(made[0].image), pixels(made[0].overlay)
    np.testing.assert_allclose(seen / 255, np.clip(image[0] / 2 + 0.5, 0, 1), atol=0.51 / 255)
    assert overlay.shape == (16, 16, 3)
    # Without the image that shines through: the brighter, the more the patch counts.
    added = (overlay - 0.4 * seen).mean(-1).reshape(4, 4, 4, 4).mean((1, 3))
    assert np.corrcoef(added.ravel(), heat.ravel())[0, 1] > 0.95


def test_where_the_model_sees_nothing_there_is_no_colour():
    image = np.full([2, 2, 3], 0.25)
    mixed = blend(image, np.array([[np.nan, 0.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(mixed[0, 0], image[0, 0])
    assert mixed[1, 0].mean() > mixed[0, 1].mean()
    flat = blend(image, np.ones([2, 2]))
    assert np.isfinite(flat).all()


def test_a_model_without_a_map_of_attention(both, tmp_path, monkeypatch):
    def refuse(model):
        def rollout(images):
            raise ValueError("nothing to roll out")

        return rollout

    monkeypatch.setattr("training.report.pictures.rollout_function", refuse)
    lines = []
    page = Page(write_report(both[0], tmp_path, report=lines.append).read_text())
    assert "nothing to roll out" in lines[0]
    assert len(page.named("img")) == len(both[0].mistakes + both[0].hits)


def test_models_that_cannot_be_compared(models, source, both, tmp_path):
    class Fewer(FolderSource):
        def examples(self, split):
            return super().examples(split).take(29)

    paths = [(name, index % 3) for index, name in enumerate(names(source))]
    fewer = Fewer("folder:q", LABELS, {"train": paths, "test": paths})
    with pytest.raises(ValueError, match=r"From example 29 on the second model did not see"):
        examine(models[1], fewer, batch_size=29, first=both[0])
    other = FolderSource("folder:r", LABELS, {"train": paths, "test": paths[::-1]})
    with pytest.raises(ValueError, match=r"From example 0 on .* cannot be compared"):
        examine(models[1], other, batch_size=8, first=both[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give a directory"):
        write_report(both[0], tmp_path / "file")
    alone = examine(models[1], fewer, batch_size=8)
    with pytest.raises(ValueError, match="on 30 examples and model on 29 others"):
        write_report(both[0], tmp_path, alone)


def test_nothing_wrong_and_nothing_right(source, tmp_path):
    model = small_model(LABELS)
    files = [(path, 0) for path in names(source)]
    apes = FolderSource("folder:p", LABELS, {"train": files, "test": files})
    for output, wrong in ((0, 0), (1, 30)):
        head = model.get_layer("head")
        head.kernel.assign(np.zeros(head.kernel.shape))
        head.bias.assign(20.0 * np.eye(3)[output])
        findings = examine(model, apes, report=lambda line: None)
        assert (~findings.correct).sum() == wrong
        page = Page(write_report(findings, tmp_path).read_text())
        expected = "No answer is right." if wrong else "There is no mistake."
        assert expected in page.words


def test_a_thousand_classes(source, tmp_path):
    labels = (*LABELS, *(f"class {index}" for index in range(997)))
    model = small_model(labels)
    files = [(path, index * 37 % 1000) for index, path in enumerate(names(source))]
    many = FolderSource("folder:p", labels, {"train": files, "test": files})
    findings = examine(model, many, report=lambda line: None)
    path = write_report(findings, tmp_path)
    page = Page(path.read_text())
    assert path.stat().st_size < 1_000_000
    (picture,) = [image for image in page.named("img") if image.get("class") == "matrix-picture"]
    assert picture["width"] == "250"
    assert "The most frequent mistakes" in page.words
    assert len(page.named("td")) < 20_000
    assert "10 classes that are confused most" in page.words


@pytest.mark.parametrize(
    "labels", [("only",), ("", "<b>"), (NASTY, "x" * 3000, "日本語 👩‍👩‍👧 עברית")]
)
def test_few_classes_and_names_of_any_kind(source, tmp_path, labels):
    files = [(path, index % len(labels)) for index, path in enumerate(names(source)[:5])]
    data = FolderSource("folder:p", labels, {"train": files, "test": files})
    first = examine(small_model(labels), data, report=lambda line: None)
    second = examine(small_model(labels, 1), data, first=first, report=lambda line: None)
    text = write_report(first, tmp_path, second).read_text()
    page = Page(text)
    assert len(page.named("script")) == 1
    cells = re.findall("<t[dh][ >].*?</t[dh]>", text)
    longest = max(len(" ".join(Page(cell).text)) for cell in cells)
    assert longest < 200, "a long name pushes the numbers out of sight"
    assert not [names for _, names in page.elements if any(name.startswith("on") for name in names)]


def test_data_of_the_name_of_an_attack(both, tmp_path):
    path = write_report(both[0], tmp_path, data='folder:"><script>x</script>')
    text = path.read_text()
    assert "<script>x" not in text
    assert 'folder:"><script>x</script>' in Page(text).words
    # Control characters, which a page must not hold.
    text = write_report(both[0], tmp_path, data="a\0b\x07c\x9bd").read_text()
    assert "a\ufffdb\ufffdc\ufffdd" in Page(text).words
    # A name that is not UTF-8, as the file system gives it.
    assert "caf?" in Page(write_report(both[0], tmp_path, data="caf\udce9").read_text()).words
