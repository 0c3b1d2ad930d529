"""Where the modules of the user's own options are found. Does not import torch."""

import sys
from collections.abc import Iterable
from pathlib import Path


def make_importable(folders: Iterable[Path]) -> None:
    """Let Python also find modules in these folders of own options (``--config-dir``) and in the working directory.

    They come last, so that no file there replaces a package. With PYTHONSAFEPATH the working directory is not added.
    """
    places = [*folders, *([] if sys.flags.safe_path else [Path.cwd()])]
    sys.path += [place for place in dict.fromkeys(str(place.absolute()) for place in places) if place not in sys.path]
