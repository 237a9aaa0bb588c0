"""Communication between two processes: it is timed, its bytes are perfmodel's, and compute beside it is slowed."""

import math
import multiprocessing

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from calibrate.device.case import COMMUNICATION, Case
from calibrate.device.journal import read_journal
from calibrate.device.profile import profile
from calibrate.device.ranks import Ranks, wire_bytes
from calibrate.device.timing import Bench
from perfmodel.errors import DataError
from perfmodel.ops import communication


@pytest.fixture(scope="module")
def bench():
    return Bench("cpu")


def case(kernel, nbytes, ranks=2):
    return Case(kernel, "fp32", {"ranks": ranks, "bytes": nbytes})


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_bytes_are_counted_as_perfmodel_counts_them(ranks):
    size = 3.0e6
    expected = {
        "all_to_all": communication.all_to_all(size, ranks, ranks),
        "all_gather": communication.all_gather(size, ranks, ranks),
        "reduce_scatter": communication.reduce_scatter(size, ranks, ranks),
        "all_reduce": communication.all_reduce(size, ranks, ranks),
        "send_recv": communication.send_recv(size, same_domain=True),
    }
    assert set(expected) == set(COMMUNICATION)
    for kernel, traffic in expected.items():
        assert math.isclose(wire_bytes(kernel, size, ranks), traffic.link_bytes)
        assert traffic.network_bytes == 0


def test_profile_times_communication_and_contention(tmp_path, bench):
    big = 2**23
    cases = [case(kernel, nbytes) for nbytes in (1000, 2**20) for kernel in COMMUNICATION]
    cases.insert(3, case("all_to_all", big))
    cases.append(case("all_to_all", 1000, ranks=3))
    outcome = profile(cases, tmp_path, minutes=2, bench=bench, ranks=2, progress=False)
    contents = read_journal(tmp_path)
    assert [record.case for record in contents.records] == cases[:-1]
    assert [line for line in outcome.skipped if "there are 2 ranks" not in line] == []
    assert len(outcome.skipped) == 1
    seconds = {record.case: record.measurement["seconds"] for record in contents.records}
    assert all(1e-6 < value < 10 for value in seconds.values())
    assert all(
        record.measurement["seconds"] == pytest.approx(record.measurement["raw_seconds"])
        for record in contents.records
    )
    assert seconds[case("all_to_all", big)] > seconds[case("all_to_all", 1000)]
    (contention,) = (one for one in contents.contention if one.bytes == big)
    assert contention.ranks == 2
    assert 0.0 <= contention.held < 1.0
    assert 0.3 < contention.exchange_stretch < 100
    again = profile(cases[:4], tmp_path, minutes=1, bench=bench, ranks=2, progress=False)
    assert (again.timed, again.before) == (0, 4)
    assert len([one for one in read_journal(tmp_path).contention if one.bytes == big]) == 1


def test_a_rank_that_dies_is_an_error_not_a_hang(bench):
    with Ranks(2, bench) as ranks:
        ranks.measure(case("all_gather", 1024))
        multiprocessing.active_children()[0].kill()
        for _ in range(2):
            with pytest.raises(DataError, match="the ranks ended"):
                ranks.measure(case("all_gather", 1024))
    assert multiprocessing.active_children() == []


def test_one_rank_is_refused(bench):
    with pytest.raises(DataError, match="at least 2"):
        Ranks(1, bench)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_nccl_is_timed():
    with Ranks(2, Bench("cuda")) as ranks:
        for kernel in COMMUNICATION:
            assert 1e-6 < ranks.measure(case(kernel, 2**24)).seconds < 1
        assert 0 <= ranks.contention(case("all_to_all", 2**28))["held"] < 1
