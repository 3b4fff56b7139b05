# The whole paper as one graph of notebooks. `make reproduce` runs it through arcnn/workshop/reproduce.py,
# with a profile (notebooks/profiles/*.yaml) as configuration and results/<profile>/ as the folder
# that all outputs below are relative to.
#
# An executed notebook is declared as `log`, so that a failed one stays to be read. The notebooks
# that prepare and train are wrapped in ancient(): a change of wording retrains nothing.

import json
import os
import shlex
import sys

NOTEBOOKS = f"{workflow.basedir}/notebooks"
DATASETS, MODELS, SEEDS = config["datasets"], config["models"], config["seeds"]
COMMON = {key: config[key] for key in ("profile", "data_root", "results_root")}
OPTIONS = {"options": config["options"]}
# As a file, not as a module: the package would bring torch into a process that has no use for it.
RUN = " ".join(
    [shlex.quote(sys.executable), "-P", shlex.quote(f"{workflow.basedir}/arcnn/workshop/notebooks.py")]
    + ["{input.notebook:q} {log:q} {params}"]
)
EXPERIMENT = f"{shlex.quote(sys.executable)} -P -m arcnn.experiments"
ABLATION = config["ablation"]
RUN_FOLDER = "runs/{dataset}/{model}/seed{seed}"


def arguments(**parameters):
    """-p NAME VALUE ... with JSON values, quoted for the shell."""
    return " ".join(
        f"-p {name} {shlex.quote(json.dumps(value))}" for name, value in parameters.items()
    )


def figure(number, dataset):
    """figure4.png for the profile's first data set, figure4.<dataset>.png for the others."""
    return f"figure{number}.png" if dataset == DATASETS[0] else f"figure{number}.{dataset}.png"


def trained(dataset, model):
    return f"runs/{dataset}/{model}/seed{SEEDS[0]}/train/model_final.pth"


def evaluations(dataset):
    return expand(
        f"{RUN_FOLDER}/metrics.json", dataset=dataset, model=MODELS, seed=SEEDS
    )


def heads(wildcards):
    whole = [
        f"whole/{variant}/runs/{wildcards.dataset}/{chosen['model']}/seed0/draws.csv"
        for variant, chosen in ABLATION["whole"].items()
    ]
    # They are held against the kit's own ARCNN.
    whole += [f"runs/{wildcards.dataset}/arcnn/seed0/draws.csv"] if whole else []
    return whole + [
        f"ablation/{wildcards.dataset}/{variant}/seed{seed}/record.json"
        for variant, seeds in ABLATION["variants"].items()
        for seed in range(seeds)
    ]


wildcard_constraints:
    dataset="[a-z0-9_]+",
    model="[a-z0-9_]+",
    variant="[a-z0-9_-]+",
    seed="[0-9]+",


onsuccess:
    print("Results:", os.getcwd())


rule all:
    input:
        "records/00_amodal_segmentation_and_the_jigsaw.json",
        expand("records/02_look_at_the_data.{dataset}.json", dataset=DATASETS),
        expand("records/03_anatomy_of_the_model.{dataset}.json", dataset=DATASETS),
        expand("records/09_statistics_of_the_data.{dataset}.json", dataset=DATASETS),
        evaluations(DATASETS),  # named here, so that a deleted run is missed
        "table1.md",
        "table1.csv",
        [figure(4, dataset) for dataset in DATASETS],
        [figure(5, dataset) for dataset in DATASETS if "arcnn" in MODELS],


# `make ablation`: the questions that the paper leaves open, on frozen features.
rule ablation:
    input:
        f"records/11_context_or_an_or_gate.{DATASETS[0]}.json",
        # Its test needs a published order of the classes.
        ["records/12_occlusion_order.tabletop.json"] if DATASETS[0] == "tabletop" else [],


rule introduction:
    input:
        notebook=f"{NOTEBOOKS}/00_amodal_segmentation_and_the_jigsaw.ipynb",
        data=f"data/{DATASETS[0]}.json",
    output:
        "records/00_amodal_segmentation_and_the_jigsaw.json",
    log:
        "notebooks/00_amodal_segmentation_and_the_jigsaw.ipynb",
    params:
        arguments(**COMMON, dataset=DATASETS[0]),
    shell:
        RUN


rule prepare_data:
    input:
        notebook=ancient(f"{NOTEBOOKS}/01_prepare_data.ipynb"),
    output:
        "data/{dataset}.json",
    log:
        "notebooks/01_prepare_data.{dataset}.ipynb",
    params:
        lambda w: arguments(
            **COMMON, dataset=w.dataset, **(config["tabletop"] if w.dataset == "tabletop" else {})
        ),
    threads: workflow.cores
    shell:
        RUN


rule look_at_the_data:
    input:
        notebook=f"{NOTEBOOKS}/02_look_at_the_data.ipynb",
        data="data/{dataset}.json",
    output:
        "records/02_look_at_the_data.{dataset}.json",
    log:
        "notebooks/02_look_at_the_data.{dataset}.ipynb",
    params:
        lambda w: arguments(**COMMON, dataset=w.dataset),
    shell:
        RUN


rule statistics_of_the_data:
    input:
        notebook=f"{NOTEBOOKS}/09_statistics_of_the_data.ipynb",
        data="data/{dataset}.json",
    output:
        "records/09_statistics_of_the_data.{dataset}.json",
    log:
        "notebooks/09_statistics_of_the_data.{dataset}.ipynb",
    params:
        lambda w: arguments(**COMMON, dataset=w.dataset),
    shell:
        RUN


rule anatomy_of_the_model:
    input:
        notebook=f"{NOTEBOOKS}/03_anatomy_of_the_model.ipynb",
        data="data/{dataset}.json",
        # It would do without; but a trained model's maps are worth looking at.
        weights=lambda w: trained(w.dataset, "arcnn") if "arcnn" in MODELS else [],
    output:
        "records/03_anatomy_of_the_model.{dataset}.json",
    log:
        "notebooks/03_anatomy_of_the_model.{dataset}.ipynb",
    params:
        lambda w: arguments(**COMMON, dataset=w.dataset, **OPTIONS),
    shell:
        RUN


rule train:
    input:
        notebook=ancient(f"{NOTEBOOKS}/04_train.ipynb"),
        data="data/{dataset}.json",
    output:
        # Not removed before the rule runs again: hours of training, which the notebook knows of.
        update(f"{RUN_FOLDER}/train/model_final.pth"),
        f"{RUN_FOLDER}/train/record.json",
    log:
        "notebooks/04_train.{dataset}.{model}.seed{seed}.ipynb",
    params:
        lambda w: arguments(
            **COMMON, dataset=w.dataset, model=w.model, seed=int(w.seed), **OPTIONS
        ),
    threads: config["train_threads"]
    shell:
        RUN


def whole(w):
    """A variant of the ablation as a whole network: to the notebooks, a profile of its own."""
    own = {"profile": w.variant, "results_root": f"{os.getcwd()}/whole"}
    options = config["options"] + ABLATION["whole"][w.variant]["options"]
    return arguments(
        **COMMON | own, dataset=w.dataset, model=w.model, seed=int(w.seed), options=options
    )


use rule train as train_whole with:
    output:
        update(f"whole/{{variant}}/{RUN_FOLDER}/train/model_final.pth"),
        f"whole/{{variant}}/{RUN_FOLDER}/train/record.json",
    log:
        "notebooks/whole/04_train.{dataset}.{variant}.{model}.seed{seed}.ipynb",
    params:
        whole,


rule evaluate:
    input:
        notebook=f"{NOTEBOOKS}/05_evaluate.ipynb",
        weights=f"{RUN_FOLDER}/train/model_final.pth",
    output:
        f"{RUN_FOLDER}/metrics.json",
        f"{RUN_FOLDER}/predictions.json",
        f"{RUN_FOLDER}/draws.csv",
        f"{RUN_FOLDER}/record.json",
    log:
        "notebooks/05_evaluate.{dataset}.{model}.seed{seed}.ipynb",
    params:
        lambda w: arguments(
            **COMMON, dataset=w.dataset, model=w.model, seed=int(w.seed), **OPTIONS
        ),
    threads: config["train_threads"]
    shell:
        RUN


use rule evaluate as evaluate_whole with:
    input:
        notebook=f"{NOTEBOOKS}/05_evaluate.ipynb",
        weights=f"whole/{{variant}}/{RUN_FOLDER}/train/model_final.pth",
    output:
        f"whole/{{variant}}/{RUN_FOLDER}/metrics.json",
        f"whole/{{variant}}/{RUN_FOLDER}/predictions.json",
        f"whole/{{variant}}/{RUN_FOLDER}/draws.csv",
        f"whole/{{variant}}/{RUN_FOLDER}/record.json",
    log:
        "notebooks/whole/05_evaluate.{dataset}.{variant}.{model}.seed{seed}.ipynb",
    params:
        whole,


rule table1:
    input:
        notebook=f"{NOTEBOOKS}/06_table1.ipynb",
        metrics=evaluations(DATASETS),
    output:
        expand("table1.{kind}", kind=["md", "csv", "tex", "png", "svg"]),
        "records/06_table1.json",
    log:
        "notebooks/06_table1.ipynb",
    params:
        arguments(**COMMON, datasets=DATASETS, models=MODELS, seeds=SEEDS),
    shell:
        RUN


for dataset in DATASETS:

    rule:
        name: f"figure4_{dataset}"
        input:
            notebook=f"{NOTEBOOKS}/07_figure4.ipynb",
            metrics=evaluations(dataset),
        output:
            figure(4, dataset),
        log:
            f"notebooks/07_figure4.{dataset}.ipynb",
        params:
            arguments(
                **COMMON, dataset=dataset, models=MODELS, seed=SEEDS[0], **OPTIONS,
                figure=figure(4, dataset),
            ),
        shell:
            RUN

    rule:
        name: f"figure5_{dataset}"
        input:
            notebook=f"{NOTEBOOKS}/08_figure5.ipynb",
            weights=trained(dataset, "arcnn"),
        output:
            figure(5, dataset),
        log:
            f"notebooks/08_figure5.{dataset}.ipynb",
        params:
            arguments(
                **COMMON, dataset=dataset, seed=SEEDS[0], **OPTIONS,
                class_name=config["figure5_class"].get(dataset, ""), figure=figure(5, dataset),
            ),
        shell:
            RUN


rule frozen_features:
    input:
        weights=f"runs/{{dataset}}/{ABLATION['trunk']}/seed0/train/model_final.pth",
    output:
        "ablation/{dataset}/features.train.pt",
        "ablation/{dataset}/features.val.pt",
        "ablation/{dataset}/features.json",
    params:
        lambda w: " ".join(
            f"--{name} {shlex.quote(value)}"
            for name, value in {
                "data-root": config["data_root"],
                "trunk": ABLATION["trunk"],
                "options": json.dumps(config["options"]),
            }.items()
        ),
    shell:
        EXPERIMENT + " features --dataset {wildcards.dataset} --folder ablation/{wildcards.dataset}"
        " --results . {params}"


rule head:
    input:
        rules.frozen_features.output,
    output:
        "ablation/{dataset}/{variant}/seed{seed}/objects.csv",
        "ablation/{dataset}/{variant}/seed{seed}/record.json",
    params:
        shlex.quote(json.dumps(config["options"] + ABLATION["options"])),
    shell:
        EXPERIMENT + " head --dataset {wildcards.dataset} --folder ablation/{wildcards.dataset}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --options {params}"


for name in ("11_context_or_an_or_gate", "12_occlusion_order"):

    rule:
        name: name
        input:
            notebook=f"{NOTEBOOKS}/{name}.ipynb",
            runs=heads,
        output:
            f"records/{name}.{{dataset}}.json",
        log:
            f"notebooks/{name}.{{dataset}}.ipynb",
        params:
            lambda w: arguments(**COMMON, dataset=w.dataset),
        shell:
            RUN
