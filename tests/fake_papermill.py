#!/usr/bin/env python3
"""Stands in for papermill: leaves behind what a notebook would, at once. Its first line may be replaced by a test.

It fails where a configuration differs, as the notebooks do, and where FAIL names the notebook's part; waits S seconds.
MADE_OF holds digests of data that all notebooks but 08, which reads others, would write into the configuration.
"""

import json
import os
import sys
import time
from pathlib import Path

words = sys.argv[1:]
source, executed = (Path(word) for word in words if word.endswith(".ipynb"))
values = {}
for word, value in zip(words, words[1:], strict=False):
    values |= json.loads(value) if word == "-y" else {}
folder = executed.parent
name = "/".join(folder.parts[folder.parts.index(values["run"]) + 1 :])
error = {"output_type": "error", "ename": "ValueError", "evalue": f"{name} can't be made", "traceback": []}
cell = {"cell_type": "code", "source": ["x = 1\n", "fail(x)"], "outputs": [error] * (name == os.environ.get("FAIL"))}
executed.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": []}, cell]}))
with Path(os.environ["CALLS"]).open("a") as calls:
    calls.write(f"{name}\n")
time.sleep(float(os.environ.get("S", "0")))
if cell["outputs"]:
    sys.exit("papermill would tell much here")
variant = folder.parent if source.stem == "04_kfold" else folder
if not values.get("tabulate", True):
    variant = folder.parents[1]
sys.path.insert(0, str(source.resolve().parents[1]))
from lib import code, settings  # noqa: E402

made_of = json.loads(os.environ.get("MADE_OF", "{}")) if source.stem != "08_submission" else {}
own = {**settings.configuration(values), **made_of}
file = variant / "configuration.json"
if file.is_file() and json.loads(file.read_text()) != own:
    sys.exit(f"{variant} was made with another configuration")
partial = file.with_suffix(f".{os.getpid()}")
partial.write_text(json.dumps(own))
partial.replace(file)
if source.stem == "04_kfold" and values["fold"] >= 0:
    (folder / "weights.safetensors").write_text(executed.as_posix())
(folder / "manifest.json").write_text(json.dumps({"code": code.digest(source.stem)}))
(folder / "result.json").write_text(
    json.dumps({"parameters": values, "metrics": {"lwlrap": 0.5}, "conclusion": f"{name} is made"})
)
