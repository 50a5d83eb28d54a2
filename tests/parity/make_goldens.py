"""Write what timm and transformers answer, without weights, and how large timm's models are.

Run it where the extra "parity" is installed: `python tests/parity/make_goldens.py`. A name of timm
as an argument records that one alone, for looking at it.
"""

import gzip
import json
import sys
from pathlib import Path

from peers import TRANSFORMERS, timm_names, timm_record, timm_size, transformers_record

FIXTURES = Path(__file__).parent.parent / "fixtures"


def main(names):
    records = {"timm": [], "transformers": []}
    for name in names or timm_names():
        records["timm"].append(timm_record(name))
        print(name, flush=True)
    if names:
        print(json.dumps(records["timm"], indent=1)[:2000])
        return
    records["transformers"] = [transformers_record(*row) for row in TRANSFORMERS]
    text = json.dumps(records).encode()
    (FIXTURES / "goldens.json.gz").write_bytes(gzip.compress(text, mtime=0))
    sizes = {name: timm_size(name) for name in timm_names()}
    text = ",\n".join(f"{json.dumps(name)}: {size}" for name, size in sizes.items())
    (FIXTURES / "timm_parameters.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
