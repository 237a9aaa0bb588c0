"""A serving simulation as the result file of a benchmark, in the shape of the tool that a user's scripts read."""

from pathlib import Path
from types import ModuleType

from perfmodel.answers.serve import ServeAnswer
from perfmodel.errors import DataError, SpecError
from perfmodel.files import atomic_write, check_writable

SHAPES = ("vllm", "aiperf", "guidellm")

SUFFIX = ".json"


def check_result_files(path: Path, shape: str = "vllm") -> dict[str, Path]:
    """The files that a result has, by the option that names them.

    Raises:
        SpecError: nobody's shape.
        DataError: another suffix than .json, or a place that can't be written to.
    """
    if shape not in SHAPES:
        raise SpecError(f"--result-format {shape}: must be one of {', '.join(SHAPES)}")
    if path.suffix != SUFFIX:
        raise DataError(f"--result {path}: must end in {SUFFIX}")
    files = {"--result": path}
    if shape == "aiperf":
        from perfmodel.output.export.aiperf_result import requests_file

        files["the requests beside --result"] = requests_file(path)
    for file in files.values():
        check_writable(file)
    return files


def write_result(answer: ServeAnswer, path: Path, shape: str = "vllm") -> None:
    """Writes each file whole or not at all: strict JSON, ``inf`` as a word and unknown as null."""
    for file, text in _writer(shape).result_texts(answer, path).items():
        atomic_write(file, text)


def _writer(shape: str) -> ModuleType:
    if shape == "aiperf":
        from perfmodel.output.export import aiperf_result

        return aiperf_result
    if shape == "guidellm":
        from perfmodel.output.export import guidellm_result

        return guidellm_result
    from perfmodel.output.export import vllm_result

    return vllm_result
