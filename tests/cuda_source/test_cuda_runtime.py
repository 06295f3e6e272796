"""The runtime of models on a GPU, on the emulated one: what callers give, get and are refused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest
from agreement import indices, normal
from emulator import device, driver, emulated

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.runtime import diagnose
from tvmlayers.runtime.cuda import CudaCompiled, DeviceArray, Driver, to_device
from tvmlayers.runtime.cuda.driver import images_for, nvrtc_for
from tvmlayers.targets.cuda import nearest, present

MIB = 1 << 20


@pytest.fixture
def be() -> Iterator[Any]:
    """`emulator.be`, undone after the test."""
    yield emulator.be
    emulator.be()


@cache
def words() -> CudaCompiled:
    model = tl.Sequential([tl.Embedding(50, 8, input_length=4), tl.Flatten(), tl.Dense(6)])
    return emulated(model)


def there(array: object) -> DeviceArray:
    return to_device(array, driver=driver())


def test_arrays_of_the_gpu_are_taken_as_they_lie_and_give_their_kind() -> None:
    ids = indices(50, 7, 4)
    result = words()(there(ids))
    assert isinstance(result, DeviceArray)
    np.testing.assert_array_equal(result.numpy(), words()(ids))


def test_results_go_where_out_says() -> None:
    ids = indices(50, 7, 4)
    out = DeviceArray((7, 6), np.float32, driver=driver())
    assert words()(there(ids), out=out) is out
    np.testing.assert_array_equal(out.numpy(), words()(ids))
    with pytest.raises(tl.ShapeError, match=r"out expected shape \(7, 6\)"):
        words()(there(ids), out=DeviceArray((6, 7), np.float32, driver=driver()))


def test_lists_and_small_integers_are_taken_from_the_host() -> None:
    ids = indices(50, 3, 4)
    wanted = words()(ids)
    np.testing.assert_array_equal(words()(ids.tolist()), wanted)
    np.testing.assert_array_equal(words()(ids.astype(np.int8)), wanted)
    assert words()(np.zeros((0, 4), np.int64)).shape == (0, 6)


def test_an_array_that_is_not_aligned_is_copied_first() -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    x = normal(5, 16)
    room = there(np.concatenate([[0.0], x.ravel()]).astype(np.float32))
    shifted = DeviceArray((5, 16), np.float32, driver=driver())
    own = shifted.address
    shifted.address = room.address + 4
    np.testing.assert_array_equal(model(shifted).numpy(), model(x))
    shifted.address = own


def test_inputs_on_different_devices_are_refused() -> None:
    x, y = tl.Input((3,)), tl.Input((3,))
    model = emulated(tl.Model([x, y], tl.Concatenate()([x, y])))
    with pytest.raises(tl.DeviceError, match="different devices"):
        model(normal(2, 3), there(normal(2, 3)))


@pytest.mark.parametrize("bad", [-1, 50, 1 << 40])
def test_an_index_out_of_range_raises_as_on_the_cpu_and_spoils_nothing(bad: int) -> None:
    ids = indices(50, 9, 4)
    wrong = ids.copy()
    wrong[5, 2] = bad
    for given in (wrong, there(wrong)):
        with pytest.raises(tl.IndexOutOfRangeError, match=rf"index {bad} at position \(5, 2\)"):
            words()(given)
    assert np.isfinite(words()(ids)).all()


def test_deferred_checks_raise_when_they_are_asked_for() -> None:
    ids = indices(50, 9, 4)
    wrong = ids.copy()
    wrong[0, 0] = 50
    model = words()
    model.deferred = True
    try:
        model(there(wrong))
        model(there(ids))
        with pytest.raises(tl.IndexOutOfRangeError, match="embedding"):
            model.check()
        model.check()
    finally:
        model.deferred = False


def test_a_check_waits_for_the_calls_of_all_streams() -> None:
    model = emulated(tl.Embedding(50, 8, input_length=4))
    model.deferred = True
    model(there(indices(50, 9, 4)))
    before = device().emulated_context_waits()
    model.check()
    assert device().emulated_context_waits() == before + 1


def test_offsets_that_are_wrong_raise() -> None:
    model = emulated(tl.EmbeddingBag(50, 4))
    for offsets in ([0, 5, 3], [1, 2], [0, 9]):
        with pytest.raises(tl.OffsetsError):
            model(indices(50, 8), np.array(offsets))


def test_an_artefact_runs_as_what_it_was_saved_from(tmp_path: Path) -> None:
    path = tmp_path / "words.tvml"
    words().save(path)
    loaded = tl.load(path)
    assert isinstance(loaded, CudaCompiled)
    loaded._driver = driver()
    ids = indices(50, 7, 4)
    np.testing.assert_array_equal(loaded(ids), words()(ids))


def test_a_damaged_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.tvml"
    words().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"tvmlayers emulated", b"tvmlayers Emulated"))
    with pytest.raises(tl.ArtifactError):
        tl.load(path)


def test_weights_stay_on_the_gpu_and_go_with_the_model() -> None:
    before = device().emulated_live()
    model = emulated(tl.Dense(8, input_dim=16))
    model(normal(5, 16))
    assert device().emulated_live() > before
    del model
    assert device().emulated_live() == before


def test_the_code_of_a_model_is_unloaded_with_it() -> None:
    before = device().emulated_modules()
    model = emulated(tl.Dense(8, input_dim=16))
    wanted = model(normal(5, 16))
    assert device().emulated_modules() == before + 1
    other = emulated(tl.Dense(8, input_dim=16))
    other(normal(5, 16))
    del other
    assert device().emulated_modules() == before + 1
    np.testing.assert_array_equal(model(normal(5, 16)), wanted)
    del model
    assert device().emulated_modules() == before


def test_without_a_driver_the_error_says_so() -> None:
    with pytest.raises(tl.DeviceError, match="NVIDIA's driver, which does not load"):
        Driver("libcuda-that-is-not-there.so.1")
    with pytest.raises(tl.TargetError, match=r"driver does not load .*; install it$"):
        present("libcuda-that-is-not-there.so.1")


def test_without_a_gpu_the_error_says_so(be: Any) -> None:
    be(gpus=0)
    with pytest.raises(tl.DeviceError, match="finds no GPU"):
        Driver(driver().library._name)


def test_a_gpu_out_of_memory_is_named(be: Any) -> None:
    model = emulated(tl.Dense(256, input_dim=64))
    be(memory=MIB)
    with pytest.raises(tl.DeviceMemoryError, match="too little memory left") as caught:
        model(normal(5000, 64))
    assert isinstance(caught.value, MemoryError)


def test_an_older_gpu_is_refused_and_a_newer_one_takes_ptx() -> None:
    images = {"cubin": b"cubin", "ptx": b"ptx"}
    assert images_for(images, (8, 0), (8, 9)) == [b"cubin", b"ptx\0"]
    assert images_for(images, (8, 0), (9, 0)) == [b"ptx\0"]
    for older in ((7, 5), (8, 0)):
        with pytest.raises(tl.TargetError, match="older"):
            images_for(images, (8, 6), older)


def test_an_artefact_for_a_newer_gpu_is_refused(be: Any) -> None:
    model = emulated(tl.Dense(8, input_dim=16), "cuda-sm90")
    be(major=8)
    with pytest.raises(tl.TargetError, match="compiled for sm_90 and this GPU is sm_80"):
        model(normal(2, 16))


def test_an_old_driver_is_named() -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    model._images.update(cubin=b"// code of another kind", ptx=b"// and that too")
    message = (
        r"supports CUDA 13.0: install a newer one, or .* a toolkit .* "
        r"\(pip install 'nvidia-cuda-nvrtc==13.0.\*'\); g\+\+ compiled this one"
    )
    with pytest.raises(tl.TargetError, match=message):
        model(normal(2, 16))


def test_a_board_that_refuses_the_cubin_gets_the_ptx() -> None:
    layer = tl.Dense(8, input_dim=16)
    x = normal(2, 16)
    refusing = emulated(layer)
    refusing._images["cubin"] = b"// for a desktop"
    np.testing.assert_array_equal(refusing(x), emulated(layer)(x))


def test_the_toolkit_of_an_older_driver_has_another_package() -> None:
    assert nvrtc_for("12.4") == "pip install 'nvidia-cuda-nvrtc-cu12==12.4.*'"


def test_a_process_that_was_forked_is_told_so() -> None:
    with pytest.raises(tl.DeviceError, match=r"forked from one .* get_context\('spawn'\)"):
        driver().fail(3, "cuInit")


def test_memory_that_cannot_be_given_back_raises_nothing() -> None:
    class Ended(Driver):
        def free(self, address: int) -> None:
            self.fail(719, "cuMemFree_v2")

    ended = Ended(emulator.library())
    kept = DeviceArray((3,), "float32", driver=ended)
    place = kept.address
    del kept
    gc.collect()
    driver().free(place)  # it is there still


def test_more_failed_checks_than_a_status_has_bits_are_all_in_it() -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    found = np.zeros(70, bool)
    found[[3, 63, 69]] = True
    status = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnose, "raise_for_status", lambda bits, *_: status.append(bits))
        model._raise_for(found, None, [], 0)
    assert status == [1 << 3 | 1 << 62]


def test_a_device_by_capability_is_the_best_row_it_runs() -> None:
    assert nearest((8, 0)).name == "cuda-sm80"
    assert nearest((8, 7)).name == "cuda-sm86"
    assert nearest((12, 0)).name == "cuda-sm90"
    with pytest.raises(tl.TargetError, match="older than cuda-sm80"):
        nearest((7, 5))


@pytest.mark.parametrize("name", ["cuda", "cuda-native"])
def test_the_gpu_that_is_here_has_two_names(
    name: str, be: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(major=8, minor=6)
    emulated_library = emulator.library()
    monkeypatch.setattr(targets.cuda, "present", lambda **more: present(emulated_library, **more))
    assert targets.resolve(name).name == "cuda-sm86"
