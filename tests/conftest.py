"""Shared fixtures: where the real audio lies, and small sets made on the fly."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data():
    """Path of a folder of real audio beside the checkout; skips, or fails under REQUIRE_SHARED_DATA=1, without it."""

    def find(name: str) -> Path:
        folder = ROOT.parent / "shared" / "data" / name
        if not folder.is_dir():
            message = f"real audio {name!r} is not beside this checkout (shared/data)"
            if os.environ.get("REQUIRE_SHARED_DATA") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return folder

    return find


@pytest.fixture
def make_clips(tmp_path):
    """Writes sounds (samples: a 16-bit wav; bytes: as they are; None: no file) and returns fname, path, subset."""

    def make(sounds: dict, subset: str = "curated", folder: str = "audio", sample_rate: int = 8000) -> pd.DataFrame:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        for fname, sound in sounds.items():
            if isinstance(sound, bytes):
                (home / fname).write_bytes(sound)
            elif sound is not None:
                soundfile.write(home / fname, np.asarray(sound, np.float32), sample_rate)
        return pd.DataFrame({"fname": list(sounds), "path": [str(home / f) for f in sounds], "subset": subset})

    return make
