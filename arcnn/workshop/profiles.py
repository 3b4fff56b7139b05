"""Profiles: files of parameters in ``notebooks/profiles/``, read, merged and checked.

A profile's entries are the notebooks' parameters by name; a few are the workflow's own. What is
wrong with one is a sentence that names the file and the entry.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import jsonschema
import yaml

from arcnn.config import get_config, models_of
from arcnn.experiments.variants import VARIANTS
from arcnn.files import PROFILES, read_yaml
from arcnn.names import DATASETS

DEFAULTS: dict[str, Any] = {
    "datasets": None,
    "models": None,
    "seeds": None,
    "options": [],  # detectron2 overrides: [KEY, VALUE, ...], perhaps grouped in lists
    "max_skipped": 0.01,  # share of the objects that may be left out
    "num_gpus": 1,  # that train a model together
    "tabletop": {},  # what is drawn: train_images, val_images, data_seed
    "figure5_class": {},  # the class of Figure 5, by data set
    "ablation": {},
    "compare_with": "",  # a model: notebook 13 sets all others beside it
    "data_root": "",
    "results_root": "",
}
# What `make ablation` trains, unless the profile's `ablation` says otherwise.
ABLATION_DEFAULTS: dict[str, Any] = {
    "trunk": "orcnn",  # whose features: none of the joints that are compared has formed them
    "variants": list(VARIANTS),
    "max_seeds": 5,
    "networks": [],  # variants to train as whole networks too, one seed
    "options": [],  # detectron2 overrides on top of the profile's; IMS_PER_BATCH counts objects
}
_COUNT, _TEXT, _LIST = {"type": "integer", "minimum": 1}, {"type": "string"}, {"type": "array"}
_SEED = {"type": "integer", "minimum": 0}
_NAMES = _LIST | {"items": _TEXT}


def _entries(**properties: dict) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


SCHEMA = _entries(
    datasets=_NAMES,
    models=_NAMES,
    seeds=_LIST | {"items": _SEED},
    options=_LIST,
    max_skipped={"type": "number", "minimum": 0, "maximum": 1},
    num_gpus=_COUNT,
    tabletop=_entries(train_images=_COUNT, val_images=_COUNT, data_seed=_SEED),
    figure5_class={"type": "object", "additionalProperties": _TEXT},
    ablation=_entries(
        trunk=_TEXT, variants=_NAMES, max_seeds=_COUNT, networks=_NAMES, options=_LIST
    ),
    compare_with=_TEXT,
    data_root=_TEXT,
    results_root=_TEXT,
    base=_TEXT,
)


class ProfileError(ValueError):
    """A profile or a command-line choice that cannot be run."""


def load_profile(name: str) -> dict[str, Any]:
    """Read and check ``notebooks/profiles/<name>.yaml``; raises ProfileError."""
    profile = {"profile": name} | DEFAULTS | _read(name)
    profile["ablation"] = ABLATION_DEFAULTS | profile["ablation"]
    return profile


def _read(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The file's parameters, on top of those of the profile that it names as its ``base``."""
    known = sorted(file.stem for file in PROFILES.glob("*.yaml"))
    if name not in known:
        raise ProfileError(f'there is no profile "{name}"; choose one of {", ".join(known)}.')
    file = f"notebooks/profiles/{name}.yaml"
    try:
        profile = read_yaml((PROFILES / f"{name}.yaml").read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{file} is not YAML: {error}") from error
    if not isinstance(profile, dict):
        raise ProfileError(f"{file} has no parameters; known: {', '.join(DEFAULTS)}.")
    try:
        jsonschema.validate(profile, SCHEMA)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        sentence = f"{where}: {error.message}"
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            unknown = next(key for key in error.instance if key not in known)
            of = f" of {where}" if where else ""
            sentence = f'unknown parameter "{unknown}"{of}; known: {", ".join(known)}'
        raise ProfileError(f"{file}: {sentence}.") from error
    options = profile.get("options", [])
    if all(isinstance(group, list) for group in options):  # grouped, for reading
        options = [item for group in options for item in group]
    base = profile.pop("base", None)
    if base in (*above, name):
        raise ProfileError(f"{file}: its base, {base}, builds on it.")
    below = _read(base, (*above, name)) if base else {"options": []}
    return below | profile | {"options": below["options"] + options}


def _check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ProfileError(f'{what} "{name}"; choose among {", ".join(known)}.')


def check_choices(profile: dict[str, Any]) -> None:
    """Raise ProfileError for data sets, models, seeds or options that there are not."""
    for key in ("datasets", "models", "seeds"):
        if not profile[key]:
            raise ProfileError(f"profile {profile['profile']}: {key} is empty; name at least one.")
    ablation = profile["ablation"]
    _check_names("datasets: unknown", profile["datasets"], DATASETS)
    for dataset in profile["datasets"]:
        known = models_of(dataset)
        _check_names("models: unknown", profile["models"], known)
        if ablation["trunk"] not in ("start", *known):
            raise ProfileError(f"ablation: the trunk is start or one of {', '.join(known)}.")
    if profile["compare_with"]:
        _check_names("compare_with: not trained", [profile["compare_with"]], profile["models"])
    _check_names("ablation: unknown variant", ablation["variants"] + ablation["networks"], VARIANTS)
    for variant in ablation["networks"]:
        if VARIANTS[variant].times > 1:
            raise ProfileError(f'ablation: "{variant}" is for heads alone, not for whole networks.')
    try:
        for dataset, model in itertools.product(profile["datasets"], profile["models"]):
            for more in ([], profile["ablation"]["options"]):
                get_config(dataset, model, options=[*profile["options"], *more])
    except ValueError as error:
        raise ProfileError(f"profile {profile['profile']}: {error}") from error
