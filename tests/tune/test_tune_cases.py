from __future__ import annotations

from pathlib import Path

import pytest

import tvmlayers as tl
from tvmlayers.errors import ConfigError, DTypeError, TuneError, UnknownNameError
from tvmlayers.tune.cases import form_of, parse
from tvmlayers.tune.data import Data
from tvmlayers.tune.workloads import cases_of
from tvmlayers.workload import Workload


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        ("dense", "128x768x3072:gelu", "dense 128x768x3072:float32:gelu"),
        ("dense", "7x333x129", "dense 7x333x129:float32:linear"),
        ("dense", "7x333x129:swish", "dense 7x333x129:float32:silu"),
        ("dense", "128x768x3072:gelu:float16", "dense 128x768x3072:float16:gelu"),
        ("dense", "7x333x129:bfloat16", "dense 7x333x129:bfloat16:linear"),
        ("embedding", "50x8x20:zipf:float64", "embedding 20x50x8:float64 zipf"),
        ("bag", "50x8x4x5:sum:zipf:float16", "bag 20x50x8:float16:sum zipf length 5"),
        ("softmax", "4x9:bfloat16", "softmax 4x9:bfloat16"),
        ("embedding", "5000x64x320", "embedding 320x5000x64:float32"),
        ("embedding", "1000000x64x4096:zipf", "embedding 4096x1000000x64:float32 zipf"),
        ("bag", "5000x64x512x20", "bag 10240x5000x64:float32:mean length 20"),
        ("bag", "5000x64x8x0..60:sum:zipf", "bag 240x5000x64:float32:sum zipf length 0..60"),
        ("bag", "5000x64x8:max", "bag 256x5000x64:float32:max length 32"),
        ("softmax", "256x1000", "softmax 256x1000:float32"),
    ],
)
def test_cases_by_hand(kind: str, text: str, name: str) -> None:
    assert str(parse(kind, text)) == name


@pytest.mark.parametrize("kind", ["dense", "embedding", "bag", "softmax"])
def test_a_wrong_case_is_answered_with_the_form(kind: str) -> None:
    with pytest.raises(ConfigError, match="looks like") as caught:
        parse(kind, "128")
    assert form_of(kind) in str(caught.value)


def test_unknown_words_and_sizes_of_zero_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'gelu'"):
        parse("dense", "1x2x3:gelo")
    with pytest.raises(UnknownNameError, match="mode or distribution"):
        parse("bag", "5000x64x8x10:median")
    with pytest.raises(ConfigError, match="at least 1"):
        parse("dense", "0x2x3")
    for text in ("1x2x3:gelu:int8", "1x2x3:float16:gelu", "1x2x3:gelu:float16:float16"):
        with pytest.raises(ConfigError, match="a dtype \\(float32, float64, float16, bfloat16\\)"):
            parse("dense", text)


@pytest.mark.parametrize("text", ["dense 4x8x8:relu:float16", "softmax 4x8:bfloat16"])
def test_a_cpu_is_not_tuned_for_halves(text: str, tmp_path: Path) -> None:
    with pytest.raises(DTypeError, match="tuned for CUDA targets only"):
        tl.tune(text, "native", records=tmp_path, work_dir=tmp_path)


def test_a_model_gives_its_layers_for_each_batch() -> None:
    model = tl.Sequential(
        [
            tl.Embedding(50, 8, input_length=6),
            tl.Flatten(),
            tl.Dense(16, activation="relu"),
            tl.Dense(3, activation="softmax"),
        ]
    )
    names = [str(case) for case in cases_of(model, (1, 32), Data())]
    assert names == [
        "embedding 6x50x8:float32",
        "embedding 192x50x8:float32",
        "dense 1x48x16:float32:relu",
        "dense 32x48x16:float32:relu",
        "dense 1x16x3:float32:softmax",
        "softmax 1x3:float32",
        "dense 32x16x3:float32:softmax",
        "softmax 32x3:float32",
    ]


def test_a_mean_over_an_embedding_is_a_bag() -> None:
    model = tl.Sequential([tl.Embedding(50, 8, input_length=6), tl.GlobalAveragePooling1D()])
    (case,) = cases_of(model, (4,), Data())
    assert str(case) == "bag 24x50x8:float32:mean length 6"


def test_a_bag_of_any_length_takes_that_of_the_data() -> None:
    (case,) = cases_of(tl.EmbeddingBag(50, 8), (4,), Data(lengths=(10, 10)))
    assert str(case) == "bag 40x50x8:float32:mean length 10"


def test_equal_layers_are_one_workload() -> None:
    model = tl.Sequential([tl.Dense(8, input_dim=8), tl.Dense(8)])
    assert len(cases_of(model, (1,), Data())) == 1


def test_saved_models_artefacts_workloads_and_strings_are_taken(tmp_path: Path) -> None:
    model = tl.Sequential([tl.Dense(8, input_dim=4)])
    model.save(tmp_path / "model.safetensors")
    tl.compile(model).save(tmp_path / "model.tvml")
    made = Workload.make("dense", m=2, k=4, n=8, dtype="float32", activation="linear")
    for given in (
        model,
        tmp_path / "model.safetensors",
        str(tmp_path / "model.tvml"),
        made,
        "dense 2x4x8",
        [made, "dense 2x4x8"],
    ):
        assert [case.workload for case in cases_of(given, (2,), Data())] == [made]


def test_a_model_without_kernels_to_tune_is_refused() -> None:
    with pytest.raises(TuneError, match="nothing to tune"):
        cases_of(tl.Sequential([tl.Flatten(input_shape=(2, 3))]), (1,), Data())
    with pytest.raises(ConfigError, match="got int"):
        cases_of(3, (1,), Data())
    with pytest.raises(TuneError, match="batch size"):
        cases_of(tl.Dense(8, input_dim=4), (0,), Data())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--case", "dense 4x8x8", "--kinds", "dense"], "leave --kinds and --dtypes out"),
        (["--case", "dense 4x8"], "looks like MxKxN"),
        (["--dtypes", "float16"], "no case is of these kinds and dtypes"),
    ],
)
def test_a_script_says_what_it_cannot_tune(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "schedules"))
    from common import main

    assert main("", ("native",), argv=arguments) == 2
    assert said in capfd.readouterr().err
