# The whole paper as one graph of notebooks. `make reproduce` runs it through
# arcnn/workshop/run/reproduce.py, with results/<profile>/ as the folder that all outputs below are
# relative to, and profile.yaml in it as configuration and as the notebooks' parameters.
#
# An executed notebook is declared as `log`, so that a failed one stays to be read. The notebooks
# that prepare and train are wrapped in ancient(): a change of wording retrains nothing. `params`
# holds what makes a job run again when it changes, so no folders: results and data may move.

import os
import shlex
import sys

from arcnn.experiments.variants import NETWORK_SEEDS, VARIANTS

NOTEBOOKS = f"{workflow.basedir}/notebooks"
TEXTS = f"{workflow.basedir}/arcnn/workshop/notebooks/looks/report"
DATASETS, MODELS, SEEDS = config["datasets"], config["models"], config["seeds"]
ABLATION = config["ablation"]
RUN_FOLDER = "runs/{dataset}/{model}/seed{seed}"
OF_A_RUN = {"dataset": "{dataset}", "model": "{model}", "seed": "{seed}"}
PYTHON = f"{shlex.quote(sys.executable)} -P -m"
NOTEBOOK = f"{PYTHON} arcnn.notebooks {{input.notebook:q}} {{log:q}}"
RUN = f"{NOTEBOOK} -f profile.yaml {{params.own}}"
EXPERIMENT = f"{PYTHON} arcnn.experiments"
# After a training on this machine, not on a cluster (0): how long the rest takes, by those that are
# finished. No reason to fail.
LEFT = ""
if config["side_by_side"]:
    LEFT = f" && ({PYTHON} arcnn.workshop.run.estimate {{params.profile}} --cores {config['cores']}"
    LEFT += f" --side-by-side {config['side_by_side']} || true)"
# What a job with a network asks of a cluster; a file of cluster/ may ask for something else. On one
# machine `gpu` alone counts: such jobs take turns.
NETWORK = {"gpu": 1, "mem": "32GB", "runtime": "24h"}
TRAINING = NETWORK if config["side_by_side"] else NETWORK | {"gpu": config["num_gpus"]}


def own(**parameters):
    """A job's own parameters, beside those of the profile."""
    return " ".join(f"-p {name} {shlex.quote(str(k))}" for name, k in parameters.items())


def figure(number, dataset):
    """figure4.png for the profile's first data set, figure4.<dataset>.png for the others."""
    return f"figure{number}.png" if dataset == DATASETS[0] else f"figure{number}.{dataset}.png"


def page(name, kind="Notebooks", **labels):
    """The executed notebook as a page, an output for the report's sake."""
    labels = {"notebook": name.partition(".")[0]} | labels
    return report(f"notebooks/{name}.html", category=kind, labels=labels)


def result(file, **labels):
    """A file that the report shows first, with the text of looks/report/<its name>.rst."""
    caption = f"{TEXTS}/{file.partition('.')[0]}.rst"
    return report(file, caption=caption, category="Table 1 and figures", labels={"file": file} | labels)


def trained(dataset, model):
    return f"runs/{dataset}/{model}/seed{SEEDS[0]}/train/model_final.pth"


def evaluations(dataset):
    return expand(
        f"{RUN_FOLDER}/metrics.json", dataset=dataset, model=MODELS, seed=SEEDS
    )


def heads(wildcards):
    networks = [
        f"{folder}runs/{wildcards.dataset}/{model}/seed{seed}/draws.csv"
        for variant in ABLATION["networks"]
        # Held against the kit's own ARCNN of the same seeds.
        for folder, model in ((f"networks/{variant}/", VARIANTS[variant].model), ("", "arcnn"))
        for seed in SEEDS[:NETWORK_SEEDS]
    ]
    return networks + [
        f"ablation/{wildcards.dataset}/{variant}/seed{seed}/record.json"
        for variant in ABLATION["variants"]
        for seed in range(min(VARIANTS[variant].seeds, ABLATION["max_seeds"]))
    ]


report: f"{TEXTS}/overview.rst"


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
        "records/09_statistics_of_the_data.json",
        # Named here, so that one that is deleted is missed.
        expand("data/{dataset}.json", dataset=DATASETS),
        evaluations(DATASETS),
        "table1.md",
        "table1.csv",
        [figure(4, dataset) for dataset in DATASETS],
        [figure(5, dataset) for dataset in DATASETS if "arcnn" in MODELS],
        # Where all models are set beside one.
        f"records/13_the_field.{DATASETS[0]}.json" if config["compare_with"] else [],


# `make start`: only what the published start needs.
rule start:
    input:
        evaluations(DATASETS),


# `make ablation`: the questions that the paper leaves open, on frozen features.
rule ablation:
    input:
        f"records/11_context_or_an_or_gate.{DATASETS[0]}.json",
        # Its test needs a published order of the classes.
        ["records/12_occlusion_order.tabletop.json"] if DATASETS[0] == "tabletop" else [],


rule introduction:
    input:
        notebook=f"{NOTEBOOKS}/00_amodal_segmentation_and_the_jigsaw.ipynb",
    output:
        "records/00_amodal_segmentation_and_the_jigsaw.json",
        page("00_amodal_segmentation_and_the_jigsaw"),
    log:
        "notebooks/00_amodal_segmentation_and_the_jigsaw.ipynb",
    params:
        own="",
    shell:
        RUN


rule prepare_data:
    input:
        notebook=ancient(f"{NOTEBOOKS}/01_prepare_data.ipynb"),
    output:
        "data/{dataset}.json",
        page("01_prepare_data.{dataset}", dataset="{dataset}"),
    log:
        "notebooks/01_prepare_data.{dataset}.ipynb",
    params:
        own=lambda w: own(
            dataset=w.dataset,
            max_skipped=config["max_skipped"],
            **(config["tabletop"] if w.dataset == "tabletop" else {}),
        ),
    threads: config["cores"]
    shell:
        RUN


rule look_at_the_data:
    input:
        notebook=f"{NOTEBOOKS}/02_look_at_the_data.ipynb",
        data="data/{dataset}.json",
    output:
        "records/02_look_at_the_data.{dataset}.json",
        page("02_look_at_the_data.{dataset}", dataset="{dataset}"),
    log:
        "notebooks/02_look_at_the_data.{dataset}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset),
    shell:
        RUN


rule compare_data_sets:
    input:
        notebook=f"{NOTEBOOKS}/09_statistics_of_the_data.ipynb",
        data=expand("data/{dataset}.json", dataset=DATASETS),
    output:
        "records/09_statistics_of_the_data.json",
        page("09_statistics_of_the_data"),
    log:
        "notebooks/09_statistics_of_the_data.ipynb",
    params:
        own="",
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
        page("03_anatomy_of_the_model.{dataset}", dataset="{dataset}"),
    log:
        "notebooks/03_anatomy_of_the_model.{dataset}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset),
        options=config["options"],
    shell:
        RUN


rule train:
    input:
        notebook=ancient(f"{NOTEBOOKS}/04_train.ipynb"),
        data="data/{dataset}.json",
    output:
        # Not removed before the rule runs again: hours of training, which the notebook knows of.
        update(f"{RUN_FOLDER}/train/model_final.pth"),
        update(f"{RUN_FOLDER}/train/record.json"),
        page("04_train.{dataset}.{model}.seed{seed}", "Trainings", **OF_A_RUN),
    log:
        "notebooks/04_train.{dataset}.{model}.seed{seed}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset, model=w.model, seed=w.seed),
        profile="profile.yaml",
    threads: config["train_threads"]
    resources:
        **TRAINING,
    shell:
        f"{NOTEBOOK} -f {{params.profile}} {{params.own}}{LEFT}"


use rule train as train_network with:
    output:
        update(f"networks/{{variant}}/{RUN_FOLDER}/train/model_final.pth"),
        update(f"networks/{{variant}}/{RUN_FOLDER}/train/record.json"),
        page(
            "networks/04_train.{dataset}.{variant}.{model}.seed{seed}",
            "Trainings",
            variant="{variant}",
            **OF_A_RUN,
        ),
    log:
        "notebooks/networks/04_train.{dataset}.{variant}.{model}.seed{seed}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset, model=w.model, seed=w.seed),
        # To the notebooks, a network of the ablation is a profile of its own.
        profile="networks/{variant}.yaml",


rule evaluate:
    input:
        notebook=f"{NOTEBOOKS}/05_evaluate.ipynb",
        weights=f"{RUN_FOLDER}/train/model_final.pth",
    output:
        f"{RUN_FOLDER}/metrics.json",
        f"{RUN_FOLDER}/predictions.json",
        f"{RUN_FOLDER}/draws.csv",
        f"{RUN_FOLDER}/record.json",
        page("05_evaluate.{dataset}.{model}.seed{seed}", "Evaluations", **OF_A_RUN),
    log:
        "notebooks/05_evaluate.{dataset}.{model}.seed{seed}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset, model=w.model, seed=w.seed),
        profile="profile.yaml",
    threads: config["train_threads"]
    resources:
        **NETWORK,
    shell:
        f"{NOTEBOOK} -f {{params.profile}} {{params.own}}"


use rule evaluate as evaluate_network with:
    input:
        notebook=f"{NOTEBOOKS}/05_evaluate.ipynb",
        weights=f"networks/{{variant}}/{RUN_FOLDER}/train/model_final.pth",
    output:
        f"networks/{{variant}}/{RUN_FOLDER}/metrics.json",
        f"networks/{{variant}}/{RUN_FOLDER}/predictions.json",
        f"networks/{{variant}}/{RUN_FOLDER}/draws.csv",
        f"networks/{{variant}}/{RUN_FOLDER}/record.json",
        page(
            "networks/05_evaluate.{dataset}.{variant}.{model}.seed{seed}",
            "Evaluations",
            variant="{variant}",
            **OF_A_RUN,
        ),
    log:
        "notebooks/networks/05_evaluate.{dataset}.{variant}.{model}.seed{seed}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset, model=w.model, seed=w.seed),
        # To the notebooks, a network of the ablation is a profile of its own.
        profile="networks/{variant}.yaml",


rule table1:
    input:
        notebook=f"{NOTEBOOKS}/06_table1.ipynb",
        metrics=evaluations(DATASETS),
    output:
        result("table1.csv"),
        expand("table1.{kind}", kind=["md", "tex"]),
        "records/06_table1.json",
        page("06_table1"),
    log:
        "notebooks/06_table1.ipynb",
    params:
        own="",
    shell:
        RUN


for dataset in DATASETS:

    rule:
        name: f"figure4_{dataset}"
        input:
            notebook=f"{NOTEBOOKS}/07_figure4.ipynb",
            metrics=evaluations(dataset),
        output:
            result(figure(4, dataset), dataset=dataset),
            page(f"07_figure4.{dataset}", dataset=dataset),
        log:
            f"notebooks/07_figure4.{dataset}.ipynb",
        params:
            own=own(dataset=dataset, seed=SEEDS[0], figure=figure(4, dataset)),
        shell:
            RUN

    rule:
        name: f"figure5_{dataset}"
        input:
            notebook=f"{NOTEBOOKS}/08_figure5.ipynb",
            weights=trained(dataset, "arcnn"),
        output:
            result(figure(5, dataset), dataset=dataset),
            page(f"08_figure5.{dataset}", dataset=dataset),
        log:
            f"notebooks/08_figure5.{dataset}.ipynb",
        params:
            own=own(
                dataset=dataset,
                seed=SEEDS[0],
                class_name=config["figure5_class"].get(dataset, ""),
                figure=figure(5, dataset),
            ),
        shell:
            RUN


rule frozen_features:
    input:
        # The kit's own start needs the data alone.
        f"runs/{{dataset}}/{ABLATION['trunk']}/seed0/train/model_final.pth"
        if ABLATION["trunk"] != "start"
        else "data/{dataset}.json",
    output:
        "ablation/{dataset}/features.train.pt",
        "ablation/{dataset}/features.val.pt",
        "ablation/{dataset}/features.json",
    resources:
        **NETWORK,
    shell:
        EXPERIMENT + " features --profile-file profile.yaml --dataset {wildcards.dataset}"


rule head:
    input:
        rules.frozen_features.output,
    output:
        "ablation/{dataset}/{variant}/seed{seed}/objects.csv",
        "ablation/{dataset}/{variant}/seed{seed}/record.json",
    resources:
        **NETWORK,
    shell:
        EXPERIMENT + " head --profile-file profile.yaml --dataset {wildcards.dataset}"
        " --variant {wildcards.variant} --seed {wildcards.seed}"


for name in ("11_context_or_an_or_gate", "12_occlusion_order"):

    rule:
        name: name
        input:
            notebook=f"{NOTEBOOKS}/{name}.ipynb",
            runs=heads,
        output:
            f"records/{name}.{{dataset}}.json",
            page(f"{name}.{{dataset}}", dataset="{dataset}"),
        log:
            f"notebooks/{name}.{{dataset}}.ipynb",
        params:
            own=lambda w: own(dataset=w.dataset),
        shell:
            RUN


rule given_boxes:
    input:
        # Measured again whenever the run is: on other data, for instance.
        f"{RUN_FOLDER}/metrics.json",
    output:
        f"{RUN_FOLDER}/given_boxes.csv",
    resources:
        **NETWORK,
    shell:
        EXPERIMENT + " given-boxes --profile-file profile.yaml --dataset {wildcards.dataset}"
        " --model {wildcards.model} --seed {wildcards.seed}"


# Alone on the machine: it measures seconds.
rule cost:
    input:
        [trained(DATASETS[0], model) for model in MODELS],
    output:
        "cost.csv",
    threads: config["cores"]
    resources:
        **NETWORK,
    params:
        dataset=DATASETS[0],
    shell:
        EXPERIMENT + " cost --profile-file profile.yaml --dataset {params.dataset}"


rule the_field:
    input:
        notebook=f"{NOTEBOOKS}/13_the_field.ipynb",
        metrics=evaluations(DATASETS[0]),
        given=expand(
            f"{RUN_FOLDER}/given_boxes.csv", dataset=DATASETS[0], model=MODELS, seed=SEEDS
        ),
        cost="cost.csv",
    output:
        "records/13_the_field.{dataset}.json",
        page("13_the_field.{dataset}", dataset="{dataset}"),
    log:
        "notebooks/13_the_field.{dataset}.ipynb",
    params:
        own=lambda w: own(dataset=w.dataset, compare_with=config["compare_with"]),
    shell:
        RUN
