"""Folders to write to, as users name them."""

from pathlib import Path

from radar_rl.errors import InputError


def made_folder(place: str | Path) -> Path:
    """The folder at a path of this machine, made with those above it where they are not there.

    Raises:
        InputError: there is a file in its place, or it cannot be made.
    """
    folder = Path(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (folder, *folder.parents) if path.exists())
        raise InputError(f"{folder}: expected a folder to write to, {file} is a file; name another one") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from error
    return folder
