"""Figures, and the numbers of a data set that they draw: for any number of models and classes."""

import sys
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from arcnn import MODELS, visualization
from arcnn.data import (
    class_index,
    count_named_occluders,
    count_orders,
    front_shares,
    most_occluded_class,
    objects_table,
    order_probabilities,
    ordered_pairs,
    split_summary,
    told_by_class,
)
from arcnn.data.masks import encode
from arcnn.data.rates import RateDistribution
from arcnn.data.tabletop import TABLETOP_CLASSES, find_scene, scene_maps, scene_masks
from arcnn.errors import InputError
from arcnn.evaluation import (
    Evaluation,
    best_and_worst,
    choose_examples,
    evaluate,
    occluded_examples,
)
from arcnn.files import IN_BATCH
from arcnn.film import Camera, Film, Filmed, Filming, read_film, write_film
from arcnn.names import MASK_KINDS, MODEL_NAMES
from arcnn.visualization import widgets
from arcnn.visualization.pieces import cut_out
from arcnn.visualization.style import MASK_COLORS, model_style

CLASSES = ["cat", "laptop", "car"]
HEIGHT, WIDTH = 40, 60


def rle(mask):
    return encode(mask[None])[0]


def rectangle(y0, y1, x0, x1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def annotation(number, class_id, amodal, visible):
    masks = {"segmentation": rle(amodal), "visible_mask": rle(visible)}
    rate = 1 - visible.sum() / amodal.sum()
    box = [0.0, 0.0, float(WIDTH), float(HEIGHT)]
    fields = {"id": number, "category_id": class_id, "bbox": box, "iscrowd": 0}
    return fields | masks | {"occlusion_rate": rate}


def prediction(class_id, amodal, visible, score=0.9):
    drawn = annotation(1, class_id, amodal, visible)
    hidden = {"occlusion_mask": rle(amodal & ~visible)}
    return drawn | hidden | {"image_id": 1, "score": score}


LAPTOP = rectangle(5, 35, 5, 45)
CAT = rectangle(10, 38, 25, 55)
LAPTOP_VISIBLE = LAPTOP & ~CAT


@pytest.fixture
def record(tmp_path):
    """A cat before a laptop, on a photo that is no square."""
    file = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return {
        "file_name": str(file),
        "image_id": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [annotation(1, 1, LAPTOP, LAPTOP_VISIBLE), annotation(2, 0, CAT, CAT)],
    }


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_only_the_ablations_figures_bring_the_experiments():
    parts = Path(visualization.__file__).parent.glob("*.py")
    assert [part.stem for part in parts if "arcnn.experiments" in part.read_text()] == [
        "experiments"
    ]


def test_every_kind_and_model_has_its_own_colour():
    assert set(MASK_COLORS) == set(MASK_KINDS)
    colors = [model_style(model)["color"] for model in (*MODELS, "another")]
    assert len({*MASK_COLORS.values(), *colors}) == 7
    assert len({model_style(model)["marker"] for model in (*MODELS, "another")}) == 4


def test_cut_out_shows_pixels_tints_hidden_ones_and_marks_seams():
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    masks = {"amodal": LAPTOP, "visible": LAPTOP_VISIBLE, "occlusion": rectangle(10, 35, 30, 45)}
    piece = cut_out(image, masks, "amodal")
    assert (piece[LAPTOP_VISIBLE] == 100).all()
    plain = np.array(to_rgb("#EFEFEF")) * 255
    assert np.abs(piece[~LAPTOP] - plain).max() < 1
    hidden, seam = piece[20, 40], piece[20, 27]  # x 25 to 29 belongs to neither piece
    assert hidden[0] > hidden[1] > hidden[2]  # reddish
    assert seam[1] > seam[0]  # greenish


def test_figures_of_a_scene_are_handed_over_closed():
    before = plt.get_fignums()
    scene, index = find_scene("cat", "laptop", image_size=96)
    masks = scene_masks(scene)
    maps = scene_maps(scene, index)
    assert maps["visible"].shape == (len(TABLETOP_CLASSES), 28, 28)
    target = TABLETOP_CLASSES.index("laptop")
    for figure in (
        visualization.figure1(scene.image, masks[index], "laptop"),
        visualization.figure3(**maps, class_names=TABLETOP_CLASSES, target=target),
        visualization.mask_kinds(scene.image, masks[index], "laptop"),
        visualization.show_masks(scene.image, masks),
        visualization.jigsaw(scene.image, masks[index]),
    ):
        assert isinstance(figure, Figure)
    assert plt.get_fignums() == before


def test_find_scene_says_what_is_wrong():
    with pytest.raises(ValueError, match="choose among person"):
        find_scene("dragon", "laptop")
    with pytest.raises(ValueError, match="in 1 scenes"):
        find_scene("laptop", "cat", image_size=64, tries=1)


def test_who_is_in_front_is_read_from_masks_or_names(record):
    counts = count_orders([record], CLASSES)
    assert counts.loc["cat", "laptop"] == 1 and counts.to_numpy().sum() == 1
    ((found, front, behind),) = ordered_pairs([record])
    assert found is record and [front, behind] == record["annotations"][::-1]
    shares = order_probabilities(counts)
    assert shares.loc["cat", "laptop"] == 1 and shares.loc["laptop", "cat"] == 0
    assert np.isnan(shares.loc["car", "cat"])
    assert count_named_occluders([record], CLASSES) is None
    record["annotations"][0]["occluders"] = [2, 99]  # the second is not in the image
    assert count_named_occluders([record], CLASSES).equals(counts)


def test_an_object_counts_as_occluded_from_a_rate_of_fifteen_percent_on():
    rates = (0.0, 0.14, 0.15, 0.3)
    objects = [{"occlusion_rate": rate, "iscrowd": 0} for rate in rates]
    crowd = {"occlusion_rate": 0.9, "iscrowd": 1}
    summary = split_summary([{"annotations": [*objects, crowd]}, {"annotations": []}])
    assert summary["occlusion rate of 0.15 or more"] == 0.5
    assert summary["images"] == 2 and summary["objects"] == 4
    assert summary["fully visible"] == 0.25
    assert summary["mean occlusion rate of the occluded"] == 0.197
    assert summary["say who covers them"] == 0
    assert split_summary([])["occlusion rate of 0.15 or more"] == 0.0


def test_data_set_figures(record):
    objects = objects_table([record], CLASSES)
    assert list(objects["class"]) == ["laptop", "cat"]
    assert objects["area"].tolist() == [LAPTOP.sum(), CAT.sum()]
    counts = count_orders([record], CLASSES)
    shares = order_probabilities(counts)
    assert {"laptop", "one"} <= set(texts(visualization.image_grid([record], CLASSES, title="one")))
    nothing = visualization.image_grid([], CLASSES, title="none")
    assert nothing.axes and nothing.get_suptitle() == "none"
    assert "50 %" in texts(visualization.occlusion_rates(objects))
    assert "small | medium" in texts(visualization.object_sizes(objects.assign(side=[9, 99])))
    classes = visualization.instances_per_class(objects, CLASSES)
    assert "1 of 3 have no object here" in texts(classes)
    assert "100\n(1)" in texts(visualization.who_covers_whom({"x": shares}, counts=counts))


def test_data_sets_are_compared_without_colours(record):
    objects = objects_table([record], CLASSES)
    rates = {"one": RateDistribution(0.5, (0.5, *[0.0] * 9)), "two": RateDistribution.of([0, 0.95])}
    figure = visualization.compare_rates(rates)
    one, two = (line.get_ydata() for line in figure.axes[0].lines[:2])
    assert one[0] == two[0] == 50 and one[1] == 0 and two[9] == 50 and two[10] == 0
    assert len({line.get_marker() for line in figure.axes[0].lines[:2]}) == 2
    (line,) = visualization.compare_sizes({"one": objects}).axes[0].lines
    assert line.get_ydata().tolist() == [50, 100]
    assert line.get_xdata().tolist() == sorted(100 * objects["image_share"])


def test_classes_tell_the_order_as_often_as_they_do():
    def table(**front):
        return pd.DataFrame(
            [[0, front["cats"], 0], [front["books"], 0, 0], [0, 0, front.get("cups", 0)]]
        )

    learned = table(cats=3, books=1)
    assert told_by_class(learned, table(cats=8, books=2)) == 0.8
    assert told_by_class(learned.T, table(cats=8, books=2)) == 0.2
    assert (
        told_by_class(learned, table(cats=8, books=2, cups=10)) == 0.65
    )  # 8 and half of 10, of 20
    assert told_by_class(0 * learned, table(cats=8, books=2)) == 0.5
    assert np.isnan(told_by_class(learned, 0 * learned))


@pytest.mark.parametrize("models", [["arcnn"], ["orcnn", "arcnn"], ["arcnn", "a new head"]])
def test_learning_curves_of_any_models(models):
    logs = {
        model: pd.DataFrame({"total_loss": [2.0, 1.0], "loss_new": [1.0, 0.5]}, index=[19, 39])
        for model in models
    }
    figure = visualization.learning_curves(logs)
    assert {"total", "loss_new"} <= set(texts(figure))
    with pytest.raises(ValueError, match="no losses yet"):
        visualization.learning_curves({"arcnn": pd.DataFrame({"lr": [0.1]})})


@pytest.mark.parametrize("models", [["arcnn"], ["orcnn", "arcnn_add", "arcnn"]])
def test_figure4_says_what_was_not_found(record, models):
    predictions = dict.fromkeys(models, []) | {
        "arcnn": [prediction(1, np.roll(LAPTOP, 2, axis=1), LAPTOP_VISIBLE)]
    }
    (example,) = choose_examples(occluded_examples([record], predictions))
    assert example.annotation["id"] == 1  # the cat is not occluded
    figure = visualization.figure4([example], CLASSES)
    expected = ["ground truth", *map(MODEL_NAMES.get, models)]
    assert set(expected) <= set(texts(figure))
    assert texts(figure).count("not found") == len(models) - 1
    assert sum(text.startswith("IoU") for text in texts(figure)) == 1
    pieces = visualization.figure4_jigsaw(example, CLASSES)
    assert texts(pieces).count("not found") == len(models) - 1


def test_a_piece_that_a_model_does_not_predict_is_no_empty_piece(record):
    whole = prediction(1, np.roll(LAPTOP, 2, axis=1), LAPTOP_VISIBLE)
    del whole["visible_mask"], whole["occlusion_mask"]
    (example,) = choose_examples(occluded_examples([record], {"mask_rcnn": [whole]}))
    said = texts(visualization.figure4_jigsaw(example, CLASSES))
    assert said.count("not predicted") == 2 and "nothing" not in said
    assert sum(text.startswith("IoU") for text in said) == 1  # of the whole
    assert isinstance(visualization.figure4([example], CLASSES), Figure)


@pytest.mark.parametrize("count", [1, 7, 80])
def test_figure5_for_any_number_of_classes(count):
    names = [f"class {k}" for k in range(count)]
    vw, ow = torch.nn.Parameter(torch.randn(2, count, count, generator=torch.Generator()))
    target = class_index(names, f"class {count - 1}")
    table = visualization.weights_table(vw, ow, names, target)
    assert np.allclose(table["difference"], (vw - ow)[target].detach().numpy())
    assert isinstance(visualization.figure5(vw, ow, names, target), Figure)
    assert isinstance(visualization.weight_matrices(vw, ow, names, target), Figure)
    with pytest.raises(ValueError, match="class 0"):
        class_index(names, "cat")


def test_own_weights_beyond_the_scale_are_written_out():
    vw = torch.eye(5) + 0.01
    figure = visualization.figure5(vw, vw, list("abcde"), 2)
    assert any("VW +1.01" in text for text in texts(figure))
    low, high = figure.axes[0].get_ylim()
    assert high < 0.1


def test_classes_are_ordered_by_how_often_they_are_in_front():
    names = ["book", "cat", "cup"]
    counts = pd.DataFrame([[9, 0, 1], [3, 0, 0], [3, 0, 9]], index=names, columns=names)
    assert front_shares(counts).to_dict() == {"book": 1 / 7, "cat": 1.0, "cup": 0.75}
    vw = torch.arange(9.0).view(3, 3)
    figure = visualization.weight_matrices(vw, -vw, names, target=1, order=[0, 2, 1])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["book", "cup", "cat"]
    drawn = axes.collections[0].get_array().reshape(3, 3)
    assert drawn[2].tolist() == [3, 5, 4]  # row cat: its weights on book, cup, cat
    assert axes.patches[0].get_y() == 2  # the frame has moved with its row


def test_an_evaluation_is_drawn_with_and_without_numbers(record):
    exact = prediction(1, LAPTOP, LAPTOP_VISIBLE)
    records = [record]
    for predictions in ([exact], []):
        evaluation = Evaluation(records, predictions, len(CLASSES))
        metrics = evaluation.metrics()
        assert "AP 50.0" in texts(visualization.ap_bars(metrics)) or not predictions
        visualization.precision_recall(evaluation).canvas.draw()
        assert len(texts(visualization.ap_by_occlusion(metrics))) >= 5
        chosen = best_and_worst(records, predictions)
        assert len(chosen) == len(predictions)
        visualization.draw_detections(chosen, CLASSES).canvas.draw()
    nothing = evaluate([record | {"annotations": []}], [], len(CLASSES))
    assert "AP" in texts(visualization.ap_bars(nothing))  # the name alone, no number


def test_the_most_occluded_class(record) -> None:
    laptop, cat = record["annotations"]
    assert most_occluded_class([record], CLASSES) == "laptop"
    slightly = [laptop | {"occlusion_rate": rate} for rate in (0.14, 0.1, 0.0)]
    record["annotations"] = [*slightly, cat | {"occlusion_rate": 0.15}]
    assert most_occluded_class([record], CLASSES) == "cat"
    record["annotations"] = [laptop | {"occlusion_rate": 0.0}]
    assert most_occluded_class([record], CLASSES) == "cat"  # none: the first


def test_a_picture_is_saved_in_one_piece_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    figure = Figure()
    visualization.save(figure, tmp_path / "new" / "figure.png")
    assert Image.open(tmp_path / "new" / "figure.png").format == "PNG"

    def cut_off(file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(figure, "savefig", cut_off)
    with pytest.raises(OSError, match="No space left"):
        visualization.save(figure, tmp_path / "half.png")
    assert not list(tmp_path.glob("half*"))


# --- figures to move ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "verdict"),
    [((1, 1, 0), "1 of 3 right"), ((1, 1, 10), "an OR gate"), ((0, 0, 0), "0 of 3 right")],
)
def test_the_or_gate_is_judged_by_its_corners(weights, verdict):
    figure = visualization.or_gate(*weights)
    assert figure.axes[0].get_title().endswith(verdict)


def test_the_six_readings_are_judged_as_notebook_03_says():
    gates = {"own class, bias 10", "all classes, no bias", "noisy or"}
    for reading in visualization.READINGS:
        title = visualization.or_gate(reading=reading).axes[0].get_title()
        assert title.startswith(reading) and title.endswith("an OR gate") == (reading in gates)
    assert "2 of 3" in visualization.or_gate(reading="probabilities, no bias").axes[0].get_title()


def test_a_hidden_piece_is_cut_at_the_threshold():
    truth = {kind: np.zeros((20, 30), bool) for kind in ("amodal", "visible", "occlusion")}
    truth["occlusion"][5:15, 5:15] = truth["amodal"][5:15, 5:25] = True
    sure = np.where(truth["occlusion"], 0.4, 0.1)
    image = np.full((20, 30, 3), 200, np.uint8)
    for threshold, iou in ((0.3, "IoU 1.00"), (0.5, "IoU 0.00")):
        figure = visualization.hidden_at(image, truth, {"arcnn": {"occlusion": sure}}, threshold)
        assert figure.axes[0].texts[0].get_text() == iou
    figure = visualization.hidden_at(image, truth, {"mask_rcnn": {"amodal": sure}})
    assert figure.axes[0].texts[0].get_text() == "no hidden piece is predicted"


def test_muted_weights_take_their_part_of_the_whole_away():
    visible, occlusion = np.full((2, 4, 4), -5.0), np.full((2, 4, 4), -5.0)
    visible[0, :, :2], occlusion[0, :, 2:] = 10, 10
    weights = np.array([1.0, 0.0]), np.array([1.0, 0.0]), 2.0
    pieces, names = {"visible": visible, "occlusion": occlusion}, ["cat", "cup"]

    def whole(mute):
        figure = visualization.muted(pieces, weights, names, 0, mute)
        return figure.axes[3].images[0].get_array() > 0.5

    assert whole("nothing").all() and whole("all context").all() and whole("cup").all()
    assert whole("all OW")[:, :2].all() and not whole("all OW")[:, 2:].any()
    assert whole("cat").all()  # of nothing, the bias is left
    assert weights[1].tolist() == [1, 0]
    turned = visualization.muted(pieces, weights, names, 0, "nothing", hidden=-1.0)
    assert "OW × -1.0" in turned.axes[3].get_title()
    assert not (turned.axes[3].images[0].get_array() > 0.5)[:, 2:].any()


@pytest.mark.parametrize(
    ("task", "threshold", "panels", "said"),
    [
        ("amodal", 0.5, [1, 1, 0, 1], "2 detections, precision 0.50, recall 0.50"),
        ("amodal", 0.1, [1, 2, 0, 1], "3 detections, precision 0.33, recall 0.50"),
        ("amodal", 0.95, [0, 0, 0, 2], "no detection"),
        # The cat is whole: what it is taken for is ignored, or false in the strict reading.
        ("occluded", 0.5, [1, 0, 1, 0], "2 detections, precision 1.00, recall 1.00"),
        ("occluded_strict", 0.5, [1, 1, 0, 0], "2 detections, precision 0.50, recall 1.00"),
    ],
)
def test_what_a_score_threshold_does_to_detections(record, task, threshold, panels, said):
    found = prediction(1, LAPTOP, LAPTOP_VISIBLE)
    elsewhere = prediction(0, rectangle(0, 5, 0, 5), rectangle(0, 5, 0, 5), 0.8)
    twice = prediction(1, LAPTOP, LAPTOP_VISIBLE, 0.2)
    predictions = [twice, elsewhere, found]
    evaluation = Evaluation([record], predictions, len(CLASSES), class_names=CLASSES)
    figure = visualization.at_score(evaluation, predictions, record, threshold, task)
    curve, *images = figure.axes
    assert said in curve.get_title()
    titles = dict(zip(["true", "false", "ignored", "missed"], panels, strict=True))
    assert [int(axes.get_title().split(": ")[1]) for axes in images] == list(titles.values())
    assert [len(axes.texts) for axes in images] == panels  # each has its outline and name
    assert "laptop 0.90" in texts(figure) or threshold > 0.9


def test_a_bootstrap_grows_draw_by_draw():
    draws = pd.Series([2.0, 1.0, np.nan, 5.0, 9.0], name="AP")  # of all images, then four draws
    for count, said in (
        (1, "+2.0 [+1.0, +1.0] after 1 of 3 draws"),
        (2, "+2.0 [+1.1, +4.9] after 2 of 3 draws"),
        (500, "+2.0 [+1.2, +8.8] after 3 of 3 draws"),
    ):
        figure = visualization.bootstrap(draws, count, "the difference")
        assert figure.get_suptitle() == f"the difference: {said}"
        histogram, interval = figure.axes
        assert sum(bar.get_height() for bar in histogram.containers[0]) == min(count, 3)
        assert interval.lines[0].get_xdata()[-1] == min(count, 3)


def test_sliders_are_for_those_who_can_move_them(monkeypatch, capsys):
    shown, moved = [], []

    def interactive(*given, **controls):
        moved.append(controls)
        return ipywidgets.widgets.interactive(*given, **controls)

    monkeypatch.setattr(ipywidgets, "interactive", interactive)
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    monkeypatch.setenv(IN_BATCH, "1")
    visualization.explore(visualization.or_gate, bias=(-2.0, 2.0))
    assert not shown
    monkeypatch.delenv(IN_BATCH)
    for name in ("JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    visualization.explore(visualization.or_gate, bias=(-2.0, 2.0))  # only executed, by papermill
    assert not shown and capsys.readouterr().out == widgets.NO_SLIDERS + "\n"
    monkeypatch.setenv("JPY_SESSION_NAME", "lab/03.ipynb")
    visualization.explore(visualization.or_gate, bias=(-1.0, 1.0))
    (bundle,) = shown
    assert moved == [{"bias": (-1.0, 1.0)}]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == widgets.NO_SLIDERS  # for a viewer that has no widgets
    visualization.explore(lambda count: plt.figure(), count=[1, 10, 100])
    slider = moved[1]["count"]
    assert slider.value == 1 and slider.options == (1, 10, 100)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # not installed
    visualization.explore(visualization.or_gate, bias=(-1.0, 1.0))
    assert len(shown) == 2 and capsys.readouterr().out.endswith(widgets.NO_SLIDERS + "\n")


def a_film(kinds=MASK_KINDS) -> Film:
    """A laptop behind a cat, before and after something was learned."""
    truth = {"amodal": LAPTOP, "visible": LAPTOP_VISIBLE, "occlusion": LAPTOP & ~LAPTOP_VISIBLE}
    nothing = {kind: np.zeros_like(LAPTOP) for kind in kinds}
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    frames = [nothing, {kind: truth[kind] for kind in kinds}]
    return Film([0, 400], [Filmed("laptop", image, truth, frames)] * 3)


@pytest.mark.parametrize("kinds", [MASK_KINDS, ("amodal",)])
def test_a_film_is_drawn_and_comes_back_from_its_file(kinds, tmp_path) -> None:
    film = a_film(kinds)
    write_film(film, tmp_path)
    read = read_film(tmp_path)
    assert read.iterations == [0, 400] and [o.name for o in read.objects] == ["laptop"] * 3
    for kind in kinds:
        assert np.array_equal(read.objects[0].frames[1][kind], film.objects[0].frames[1][kind])
    figure = visualization.film_strip(read)
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["step 0", "step 400", "the truth"] and len(figure.axes) == 9
    corners = [axes.texts[0].get_text() for axes in figure.axes[:2]]
    assert corners == ["0.00", "1.00"]
    figure.canvas.draw()


def test_a_film_that_is_none_is_a_sentence(tmp_path) -> None:
    file = tmp_path / "film.npz"
    huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    large = np.zeros(2**27, np.uint8)
    np.savez_compressed(file, iterations=large)
    with pytest.raises(ValueError, match=r"film.npz cannot be read \(it would take 134,"):
        read_film(tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("kinds.npy", (huge % 10**15).ljust(127) + b"\n")
    with pytest.raises(ValueError, match="film.npz cannot be read"):
        read_film(tmp_path)


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("iterations", ["a", "b"]),
        ("iterations", [400, 0]),
        ("iterations", np.arange(101)),
        ("masks0", np.zeros((1, 3, HEIGHT, WIDTH), bool)),  # a frame less than iterations
        ("masks1", np.zeros((2, 3, 1, 1), bool)),
        ("truth0", True),
        ("truth1", np.zeros((3, HEIGHT, WIDTH), np.uint8)),
        ("image2", np.zeros((HEIGHT, WIDTH), np.uint8)),
        ("image2", np.zeros((201, 1, 3), np.uint8)),
        ("kinds", ["visible", "occlusion", "whole"]),
        ("kinds", ["amodal"] * 3),
        ("names", np.array([], str)),
        ("names", np.zeros(3, "V0")),
        ("names", ["cat\x1b[2J"]),
        ("names", None),
    ],
)
def test_a_film_whose_arrays_do_not_fit_is_a_sentence(key, array, tmp_path) -> None:
    write_film(a_film(), tmp_path)
    with np.load(tmp_path / "film.npz") as arrays:
        changed = dict(arrays) | {key: array}
    kept = {name: value for name, value in changed.items() if value is not None}
    np.savez_compressed(tmp_path / "film.npz", **kept)
    with pytest.raises(InputError, match=rf"film.npz cannot be read \(.*{key}"):
        read_film(tmp_path)


def test_a_training_that_goes_on_keeps_the_frames_that_fit(tmp_path) -> None:
    def frames(film: Film, now: Film) -> list[int]:
        write_film(film, tmp_path)
        filming = Filming(SimpleNamespace(blank=now.objects), tmp_path)
        filming.camera.frame = lambda: [o.frames[-1] for o in now.objects]
        filming.camera.film = partial(Camera.film, filming.camera)
        filming.trainer = SimpleNamespace(start_iter=200, iter=399, max_iter=400)
        filming.before_train()
        filming.after_step()
        return read_film(tmp_path).iterations

    film, other = a_film(), a_film(["amodal"])
    assert frames(film, film) == [0, 400]
    assert frames(other, film) == [400]  # another model's kinds of masks
    assert frames(film._replace(objects=film.objects[:2]), film) == [400]
    brighter = [o._replace(image=o.image + 1) for o in film.objects]
    assert frames(film, film._replace(objects=brighter)) == [400]


def test_a_film_is_looked_at_moment_by_moment() -> None:
    log = pd.DataFrame({"loss_amodal_mask": [0.7, 0.3]}, index=[19, 399])
    for step, lines, corner in ((0, [0], "0.00"), (400, [2], "1.00")):
        figure = visualization.film_at(log, a_film(), step)
        losses, *pictures = figure.axes
        assert losses.get_title() == f"step {step}" and losses.get_xlim() == (0, 400)
        assert [len(line.get_xdata()) for line in losses.lines] == lines
        assert [axes.texts[0].get_text() for axes in pictures] == [corner] * 3
    assert visualization.film_at(pd.DataFrame(), a_film(), 400).axes  # no line was logged
    with pytest.raises(ValueError, match="200"):
        visualization.film_at(log, a_film(), 200)


def test_a_training_is_shown_in_one_place_and_only_to_somebody(monkeypatch) -> None:
    assert visualization.live() is None  # no notebook
    shown = []

    class Handle:
        def update(self, figure: Figure) -> None:
            shown.append(figure)

    def display(figure: Figure, display_id: bool) -> Handle:
        shown.append(figure)
        return Handle()

    kernel = SimpleNamespace(kernel=object())
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.delenv(IN_BATCH, raising=False)
    show = visualization.live()
    show(pd.DataFrame(), a_film())
    show(pd.DataFrame({"loss_amodal_mask": [0.7, 0.3]}, index=[19, 39]), a_film())
    before, after = (figure.axes[0] for figure in shown)
    assert not before.lines and len(after.lines) == 1 and after.get_title() == "step 400"
    monkeypatch.setenv(IN_BATCH, "1")
    assert visualization.live() is None
