"""Exported models; what transformers and huggingface_hub keep goes to temporary folders, not to the home directory."""

import sys
from collections.abc import Iterator

import pytest

from tests.exchange.exported import Exported


@pytest.fixture(scope="session", autouse=True)
def _modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("modules")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Folders of exported models."""
    return Exported(tmp_path_factory.mktemp("exported"))
