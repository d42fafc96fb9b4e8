"""Settings of the book: one place for everything that differs between machines.

Every field can be set by an environment variable or by a line in a `.env` file
(searched from the working folder upward); the environment wins over the file.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dotenv import find_dotenv
from platformdirs import user_cache_path
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PACKAGE = Path(__file__).parent


class Tier(NamedTuple):
    """What one size of machine can do while a reader waits: as the settings' names."""

    model: str
    train_per_class: int
    test_per_class: int


TIERS = {
    "cpu": Tier("embedded", 128, 150),
    "t4": Tier("meta-llama/Llama-3.2-1B-Instruct", 500, 475),
    "gpu": Tier("meta-llama/Meta-Llama-3-8B-Instruct", 1000, 950),
}


def _of_tier(name: str) -> Any:
    """Make the default of a field from the tier that was set."""
    return lambda earlier: getattr(TIERS[earlier.get("tier", "cpu")], name)


class Settings(BaseSettings):
    """What the reader may change without touching a cell.

    A field ``name`` is read from ``CHAPTERLIB_NAME``; the three keys are read from
    the names their services use, without the prefix.

    Attributes
    ----------
    tier : {"cpu", "t4", "gpu"}
        The size of machine that the notebooks fit their work to.
    model : str
        ``"embedded"`` (the small model that runs anywhere), a folder or a Hub id;
        by default that of the tier.
    train_per_class, test_per_class : int
        Rows a class that the chapters work on live; by default those of the tier.
    ag_news : str or None
        A folder or a Hub id that holds AG News, or ``"sample"``; None: the Hub.
    cache : pathlib.Path
        Everything that is downloaded or computed once is kept under this folder.
    results : pathlib.Path or None
        Where run records are written and read; None: ``results/`` of the project.
    seed : int
        Seed of every random choice that is not made explicitly in a cell.
    device, dtype : str
        A torch device (None: the best there is), and the number format of the model's
        weights (``"auto"``: what is fastest here).
    llm_provider, llm_model, llm_base_url : str or None
        Who serves the chat model (None: whoever the address or a key points to, and
        else the embedded model on this machine), its name there (None: the provider's
        default), and the address of a server with OpenAI's interface, as in
        ``http://127.0.0.1:8000/v1``.
    requests_per_second, budget_tokens, budget_usd : float, int, float or None
        No more requests are sent to the chat model, and no more tokens of prompts and
        replies, or US dollars, are spent by one run; None: no limit.
    price_prompt, price_completion : float or None
        US dollars for a million tokens of prompt and of reply.
    together_api_key, openai_api_key, hf_token : pydantic.SecretStr or None
        Read from TOGETHER_API_KEY, OPENAI_API_KEY and HF_TOKEN; they never print.

    Raises
    ------
    pydantic.ValidationError
        If a value does not fit its field; the message names the field and what it
        allows.

    Examples
    --------
    >>> Settings(tier="t4").tier
    't4'
    """

    model_config = SettingsConfigDict(
        env_prefix="CHAPTERLIB_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    tier: Literal["cpu", "t4", "gpu"] = "cpu"
    model: str = Field(default_factory=_of_tier("model"))
    train_per_class: int = Field(default_factory=_of_tier("train_per_class"), ge=1)
    test_per_class: int = Field(default_factory=_of_tier("test_per_class"), ge=1)
    ag_news: str | None = None
    cache: Path = Field(
        default_factory=lambda: user_cache_path("chapterlib", appauthor=False)
    )
    results: Path | None = None
    seed: int = Field(default=0, ge=0)
    device: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    llm_provider: Literal["together", "openai", "local"] | None = None
    llm_model: str | None = None
    llm_base_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    requests_per_second: float | None = Field(default=None, gt=0)
    budget_tokens: int | None = Field(default=None, ge=0)
    budget_usd: float | None = Field(default=None, ge=0)
    price_prompt: float | None = Field(default=None, ge=0)
    price_completion: float | None = Field(default=None, ge=0)
    together_api_key: SecretStr | None = Field(
        default=None, validation_alias="TOGETHER_API_KEY"
    )
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias="OPENAI_API_KEY"
    )
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")

    @field_validator("cache", "results")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Notebooks and scripts run in different folders: a relative path would
        # silently mean another place in each.
        return None if path is None else path.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look for `.env` anew at each call: the working folder may have changed."""
        found = find_dotenv(usecwd=True)
        if found:
            dotenv_settings = DotEnvSettingsSource(settings_cls, env_file=found)
        return init_settings, env_settings, dotenv_settings


def get_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`, anew at each call.

    Parameters
    ----------
    **overrides
        Fields that win over both, by name.

    Raises
    ------
    pydantic.ValidationError
        If a value does not fit its field.
    """
    return Settings(**overrides)


# Those whose version can change a result, a duration or a size.
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "chapterlib",
    "datasets",
    "langchain-core",
    "numpy",
    "peft",
    "scikit-learn",
    "scipy",
    "torch",
    "transformers",
    "xllamacpp",
)


def versions() -> dict[str, str]:
    """Tell the versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def data_file(name: str) -> Path:
    """Path of a file or folder that the package ships."""
    return PACKAGE / "data_files" / name


def results_folder() -> Path:
    """Folder of the records: `CHAPTERLIB_RESULTS`, else the checkout's `results/`.

    Without a checkout, that which was shipped inside the installed package.
    """
    chosen = get_settings().results
    if chosen is not None:
        return chosen
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "results").is_dir():
        return checkout / "results"
    return shipped_folder()


def shipped_folder() -> Path:
    """Folder of the records that an installed wheel carries."""
    return data_file("results")
