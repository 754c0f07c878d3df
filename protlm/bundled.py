"""The bundled model: a small trained model that comes with protlm and is used when no other is given."""

from pathlib import Path

from protlm.errors import UserError

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE / "models", PACKAGE.parent / "models")
"""Folders searched for models: inside an installed package, or beside the package in a checkout."""
CARD = "README.md"


def path() -> Path:
    """The folder of the bundled model.

    Raises:
        UserError: if there is none, or more than one.
    """
    home = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[-1])
    found = sorted(file.parent for file in home.glob("[!.]*/config.json"))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"no model given, and {home} has several: {', '.join(folder.name for folder in found)}")
    raise UserError(f"no model given, and {home} has none; give the path of one, or train one: protlm-train")


def notice(folder: Path, parameters: int) -> str:
    """One line that names the bundled model, its size, the first line of its card, and where the card is."""
    about = _first_line(folder / CARD)
    return (
        f"no model given: using the bundled model {folder.name} ({parameters:,} parameters"
        f"{'; ' if about else ''}{about}); see {folder / CARD}"
    )


def _first_line(card: Path) -> str:
    """The first line after the heading of a model card, without its full stop."""
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    heading = next((number for number, line in enumerate(lines) if line.startswith("# ")), len(lines))
    return next((line.strip().rstrip(".") for line in lines[heading + 1 :] if line.strip()), "")
