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
from arcnn.data.tabletop.scenes import TABLETOP_CLASSES
from arcnn.experiments.variants import VARIANTS
from arcnn.files import PROFILES, json_validator, plain, read_yaml
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
MOST_SEEDS = 1000
_COUNT, _LIST = {"type": "integer", "minimum": 1}, {"type": "array"}
_TEXT = {"type": "string", "pattern": r"\A[^\0-\x1f\ud800-\udfff]*\Z"}
_SEED = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}  # all generators take these
_IMAGES = _COUNT | {"maximum": 999_999}  # their files have six digits
_NAMES = _LIST | {"items": _TEXT, "uniqueItems": True}
_OPTIONS = _LIST | {"items": {"$ref": "#/$defs/option"}}


def _entries(**properties: dict) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


SCHEMA = _entries(
    datasets=_NAMES,
    models=_NAMES,
    seeds=_LIST | {"items": _SEED, "uniqueItems": True, "maxItems": MOST_SEEDS},
    options=_OPTIONS,
    max_skipped={"type": "number", "minimum": 0, "maximum": 1},
    num_gpus=_COUNT,
    tabletop=_entries(train_images=_IMAGES, val_images=_IMAGES, data_seed=_SEED),
    figure5_class=_entries(**dict.fromkeys(DATASETS, _TEXT)),
    ablation=_entries(
        trunk=_TEXT, variants=_NAMES, max_seeds=_COUNT, networks=_NAMES, options=_OPTIONS
    ),
    compare_with=_TEXT,
    data_root=_TEXT,
    results_root=_TEXT,
    base=_TEXT | {"minLength": 1},
)
SCHEMA["$defs"] = {
    "option": {"type": ["string", "number", "boolean", "null", "array"]}
    | {"items": {"$ref": "#/$defs/option"}, "maxLength": 1000}
}


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
        text = plain(PROFILES / f"{name}.yaml").read_text()
        profile = read_yaml(text)
        aliases = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ProfileError(f"{file} is not YAML: {_in_a_line(error)}") from error
    if aliases:  # a list in itself, or a thousand million elements in a line
        raise ProfileError(f"{file} has an alias (*name); write out what it stands for.")
    if not isinstance(profile, dict):
        raise ProfileError(f"{file} has no parameters; known: {', '.join(DEFAULTS)}.")
    try:
        jsonschema.validate(profile, SCHEMA, cls=json_validator())
    except RecursionError as error:
        raise ProfileError(f"{file} has lists in lists in lists, too many of them.") from error
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        sentence = f"{where}: {error.message}"
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            unknown = next(key for key in error.instance if key not in known)
            of = f" of {where}" if where else ""
            sentence = f'unknown parameter "{unknown}"{of}; known: {", ".join(known)}'
        raise ProfileError(f"{file}: {_in_a_line(sentence)}.") from error
    for place in (profile, profile.get("ablation", {})):
        options = place.get("options", [])
        if all(isinstance(group, list) for group in options):  # grouped, for reading
            options = [item for group in options for item in group]
        if len(options) % 2 or not all(isinstance(key, str) for key in options[::2]):
            raise ProfileError(f"{file}: options are KEY, VALUE, KEY, VALUE, ...")
        if "options" in place:
            place["options"] = options
    options = profile.get("options", [])
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
    ablation, shown = profile["ablation"], profile["figure5_class"].get("tabletop")
    _check_names("datasets: unknown", profile["datasets"], DATASETS)
    if shown and "tabletop" in profile["datasets"]:
        _check_names("figure5_class: tabletop has no", [shown], TABLETOP_CLASSES)
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
    both = profile["options"], [*profile["options"], *ablation["options"]]
    for dataset, model in itertools.product(profile["datasets"], profile["models"]):
        for options in both:
            try:
                get_config(dataset, model, options=options)
            except (TypeError, ValueError, AttributeError) as error:
                raise ProfileError(f"options: {_in_a_line(error)}") from error


def _in_a_line(error: Exception | str) -> str:
    text = " ".join(str(error).split())  # a schema's ends with what is wrong
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"
