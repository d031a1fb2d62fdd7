"""FSDKaggle2019 by the kaggle command, or word for word how to get it by hand.

The command resumes a download that was cut off (it keeps a marker beside it), and what is unpacked already is passed
over: after any failure, run the same again. Standard library only.

Conventions
-----------
folder : gets the tables and folders of audio, as `datasets` knows them; the archive is removed when all is unpacked.

Used in: `make data` (python -m lib.submission.download FOLDER).
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from lib.files import whole_file
from lib.submission.kaggle import COMPETITION

__all__ = ["BY_HAND", "DownloadError", "fetch", "main"]

AUDIO_GB, ARCHIVE_GB = 33, 26  # the audio as wav; the archive as downloaded, about
READY = ("train_curated.csv", "sample_submission.csv")
BY_HAND = """
FSDKaggle2019 by hand, from https://zenodo.org/records/3612637 (CC BY; with test labels, so that 08 can score):

  1. download into {folder}/
       FSDKaggle2019.meta.zip
       FSDKaggle2019.audio_train_curated.zip
       FSDKaggle2019.audio_test.zip
       FSDKaggle2019.audio_train_noisy.zip and .z01 to .z06      (one archive in seven parts; all are needed)
  2. unpack there
       unzip FSDKaggle2019.meta.zip
       7z x FSDKaggle2019.audio_train_noisy.zip                  (the others may stay zipped)
  3. {folder}/ now holds FSDKaggle2019.meta/, FSDKaggle2019.audio_train_noisy/ and the two zips: give it as data_dir.
"""


class DownloadError(RuntimeError):
    """The download could not go on; its text says why and what to do."""


def fetch(folder: Path, *, free_gb: float | None = None) -> str:
    """Download and unpack the competition's files, unless they are there.

    Parameters
    ----------
    folder : of the data set
    free_gb : free disk, 10^9 bytes; by default what the disk says

    Returns
    -------
    A sentence that tells what is there.

    Raises
    ------
    DownloadError
        No disk, no kaggle command, no credentials, rules not accepted, an archive that is not whole.
    """
    folder = Path(folder)
    archive = folder / f"{COMPETITION}.zip"
    if all((folder / name).is_file() for name in READY) and not archive.exists():
        return f"{folder} holds FSDKaggle2019 already."
    folder.mkdir(parents=True, exist_ok=True)
    there_gb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
    free = shutil.disk_usage(folder).free / 1e9 if free_gb is None else free_gb
    if free + there_gb < AUDIO_GB + ARCHIVE_GB:
        raise DownloadError(
            f"{folder}: {free:.0f} GB are free and {there_gb:.0f} GB are there, {AUDIO_GB + ARCHIVE_GB} GB are needed "
            f"({ARCHIVE_GB} for the archive, {AUDIO_GB} unpacked). Free some, or name another disk: make data DATA=..."
        )
    places = [str(Path(sys.executable).parent), *os.get_exec_path()]  # the environment's own first
    command = shutil.which("kaggle", path=os.pathsep.join(places))
    if not command:
        raise DownloadError("There is no kaggle command: make setup installs it.")
    asked = [command, "competitions", "download", COMPETITION, "-p", str(folder)]
    done = subprocess.run(asked, check=False)
    if done.returncode or not archive.is_file():
        raise DownloadError(
            "The kaggle command stopped, see above. What was downloaded is kept: run the same again to go on. "
            "It needs an API token (https://www.kaggle.com/settings), and you must have accepted the rules once: "
            f"https://www.kaggle.com/c/{COMPETITION}/rules."
        )
    n = _unpack(archive, folder)
    archive.unlink()
    return f"{folder} holds FSDKaggle2019: {n} files. Give it as data_dir."


def main(words: list[str]) -> int:
    """The command line behind `make data`."""
    folder = Path(words[0] if words else "data/fsd2019")
    try:
        sys.stdout.write(fetch(folder) + "\n")
    except (DownloadError, OSError) as error:
        sys.stderr.write(f"{error}\n{BY_HAND.format(folder=folder)}")
        return 1
    return 0


def _unpack(archive: Path, folder: Path) -> int:
    """Unpack what is not there in its full size yet, each file whole or not at all; the number of files."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:
                place = (folder / member.filename).resolve()
                if not place.is_relative_to(folder.resolve()):
                    raise DownloadError(f"{archive} holds {member.filename}, which points outside. Don't trust it.")
                if place.is_file() and place.stat().st_size == member.file_size:
                    continue
                with whole_file(place) as partial, opened.open(member) as source, open(partial, "wb") as target:
                    shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{archive} is damaged ({error}). Delete it and run the same again.") from error
    return len(members)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
