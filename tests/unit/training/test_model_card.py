"""The card of a model whose base is on the Hub names it there."""

from __future__ import annotations

import yaml

from chapterlib.training.saving import model_card


def test_the_hub_finds_base_and_kind() -> None:
    known = {
        "adapter": True,
        "params": {"method": "qlora", "template": "{text}", "max_length": 64},
        "classes": [0, 1],
        "labels": ["no", "yes"],
        "pad_token": "<pad>",
        "base": {"name": "me/base", "sha256": "a" * 40, "hub_id": "me/base"},
        "trainable_parameters": 1234,
        "versions": {"peft": "1.0"},
    }
    card = model_card(known)
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "me/base"
    assert head["tags"] == ["chapterlib", "qlora"]
    assert head["pipeline_tag"] == "text-classification"
    assert "| 1 | `'yes'` |" in card
    assert "1,234 numbers" in card
    assert "Versions: peft 1.0" in card
