"""Named recipes: the book's own stays as published, each fits the estimator."""

from __future__ import annotations

import inspect

import pytest

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.models.sizes import ATTENTION
from chapterlib.settings import TIERS
from chapterlib.training.presets import PRESETS, TIER_PRESETS, preset


def test_the_recipe_of_the_source_chapter_is_unchanged() -> None:
    recipe = preset("llama3-8b")
    expected = {
        "method": "qlora",
        "r": 16,
        "alpha": 8,
        "dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "learning_rate": 1e-4,
        "batch_size": 8,
        "epochs": 3,
        "weight_decay": 0.01,
    }
    assert {name: recipe[name] for name in expected} == expected
    assert "first_layer" not in recipe  # every layer is adapted
    assert recipe["validation"] > 0  # evaluated each epoch, the best one kept


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_the_estimator(name: str) -> None:
    known = inspect.signature(FinetunedClassifier).parameters
    assert set(PRESETS[name]) <= set(known)
    made = FinetunedClassifier(**preset(name))
    assert made.get_params() | PRESETS[name] == made.get_params()


def test_the_defaults_are_those_of_the_cpu_but_for_the_layers() -> None:
    # The default is adapters in every layer, at a lower rate.
    every = {"first_layer": 0, "learning_rate": 4e-4, "target_modules": ATTENTION}
    made = FinetunedClassifier(**preset("cpu", **every))
    assert made.get_params() == FinetunedClassifier().get_params()
    assert preset("cpu")["first_layer"] == 0.5
    assert preset("cpu")["learning_rate"] == 1e-3


def test_the_tier_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TIER_PRESETS) == set(TIERS)
    for tier, name in TIER_PRESETS.items():
        monkeypatch.setenv("CHAPTERLIB_TIER", tier)
        assert preset() == preset(name)


def test_a_recipe_is_handed_out_as_a_copy() -> None:
    changed = preset("cpu", epochs=1)
    changed["r"] = 1
    assert changed["epochs"] == 1
    assert preset("cpu")["r"] == 16
    assert preset("cpu")["epochs"] == 3


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose one of llama3-8b, cpu, t4"):
        preset("a100")
