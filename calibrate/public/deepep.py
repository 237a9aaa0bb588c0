"""Curves of dispatch and combine: fixed costs, tokens, bytes on the link and on the network.

Time is a sum of terms with coefficients of at least zero (:mod:`perfmodel.kernels.curves`), fitted in relative error:

    1, ranks[8:9], ranks[8:]         set-up, leaving the node, each further peer
    tokens                           work per token whatever its size
    link_bytes[..], network_bytes[..] wire time, piecewise: short messages do not fill the wire
    network_bytes*ranks[16:32] ..    network bytes cost more in wider groups

A library uses link and network at once, so that physically the longer counts, not the sum. A sum of terms cannot say
so; for DeepEP normal, whose link and network take about as long at EP16, the fit meets it by charging network bytes
more at EP32 and EP64. Low-latency's network bytes cost more from EP64 on only (DeepEP's rows of EP128 and EP256).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibrate.device.curves import fit_terms, leave_out_residuals, robust_std
from calibrate.public import deepep_rows
from calibrate.public.deepep_rows import KERNELS, VARIABLES, Fabric, Timings, fabric
from calibrate.public.source import Source
from calibrate.tables.collective_samples import LEGACY
from perfmodel.kernels.curves import Curve, evaluate
from perfmodel.units import PERCENT

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

Terms: TypeAlias = tuple[tuple[str, float], ...]
Array: TypeAlias = NDArray[np.float64]

BASE = "h100_sxm"
"""Whose rows of several nodes, and whose shape over tokens, stand in for systems without."""
BYTE_CUTS = ("0:65536", "65536:262144", "262144:1048576", "1048576:4194304", "4194304:16777216", "16777216:")
LINK = ("1", "tokens", *(f"link_bytes[{cut}]" for cut in BYTE_CUTS))
NETWORK = ("ranks[8:9]", "ranks[8:]", *(f"network_bytes[{cut}]" for cut in BYTE_CUTS))
WIDER = {
    "deepep-low-latency": ("network_bytes*ranks[64:128]",),
    "deepep-normal": ("network_bytes*ranks[16:32]", "network_bytes*ranks[32:64]"),
}
"""More cuts than these fit a little closer and fail on a group size that was left out (low-latency combine at EP16:
45 % with the cuts of normal, 9 % without)."""
ONE_SIDED = (*LINK, "ranks", "link_bytes*ranks")
HOPPER_NODE = 8
"""GPUs of a Hopper link domain: what the cuts of ``ranks`` above count in."""
H800_LINK = ("1", "tokens", "link_bytes")
"""One message size says nothing about pieces of the link's curve."""
H800_SMALL_TOKENS = 16.0
"""Up to here the link is no limit inside an H100 node: fixed costs are most of the time."""
H800_WIDE_RANKS = 32.0
"""From here on the network is the limit on H100, and so on H800 (DeepEP's own H800 rows are 3 to 8 % above H100's)."""
H800_WIDER = {
    "deepep-low-latency": ("network_bytes*ranks[8:64]", "network_bytes*ranks[64:128]"),
    "deepep-normal": WIDER["deepep-normal"],
}
README_WEIGHT = 5
"""How often a README row counts against one of H100's: once or twice, and the robust fit takes EP8's slower link for an
outlier (-30 %); more, and few tokens come out short."""
HIDDEN_SLICE = 7168.0
TOKEN_SLICE = (64.0, 512.0)
SLICE_ROWS = 5
"""Group sizes with fewer rows are DeepEP's single ones."""


def curves(source: Source, system: str, *, experts: bool = False) -> list[Curve]:
    """Every dispatch and combine of a system.

    With ``experts`` the low-latency curves have a term in the number of experts, which ops must then know: the kernels
    look at every expert, and without it a model of 128 experts is timed as one of 256.
    """
    found = []
    for kernel in KERNELS:
        extra = ("experts",) if experts else ()
        low = deepep_rows.low_latency(source, system, kernel)
        if low is not None:
            found.append(_curve(source, system, low, (*LINK, *extra)))
        normal = deepep_rows.normal(source, system, kernel)
        if normal is not None:
            found.append(_curve(source, system, normal, LINK))
        one_sided = deepep_rows.one_sided(source, system, kernel)
        if one_sided is not None:
            found.append(fit(one_sided, ONE_SIDED))
    return found


def fit(timings: Timings, candidates: Sequence[str], flag: str = "") -> Curve:
    """The curve of one kernel with its leave-out errors; whole slices left out are told in the note."""
    frame = timings.frame
    variables, seconds = _variables(frame), frame["seconds"].to_numpy(float)
    residuals = leave_out_residuals(candidates, variables, seconds)
    errors = PERCENT * np.abs(np.expm1(residuals))
    slices = ", ".join(f"{name} {error:.0f} %" for name, error in slice_errors(timings, candidates).items())
    return Curve(
        kernel=timings.kernel,
        dtype="any",
        terms=fit_terms(candidates, variables, seconds),
        domain=_domain(frame),
        log_std=robust_std(residuals),
        num_rows=len(frame),
        median_error_pct=float(np.median(errors)),
        p90_error_pct=float(np.quantile(errors, 0.9)),
        backend=timings.backend,
        source=timings.source,
        flag=flag,
        note=f"{timings.note}; median error of a slice left out whole: {slices}",
    )


def slice_errors(timings: Timings, candidates: Sequence[str]) -> dict[str, float]:
    """Median |error| in % on a whole slice that the fit has not seen: a rank count, a hidden size, a message range."""
    frame = timings.frame
    low, high = TOKEN_SLICE
    masks = {f"{low:g} to {high:g} tokens": frame["tokens"].between(low, high)}
    if frame["hidden"].nunique() > 1:
        masks[f"hidden {HIDDEN_SLICE:g}"] = (frame["hidden"] == HIDDEN_SLICE) & (
            frame["ranks"] <= HOPPER_NODE
        )
    counts = frame.groupby("ranks").size()
    for ranks in sorted(counts.index)[1:-1]:
        if counts[ranks] >= SLICE_ROWS:
            masks[f"EP{ranks:g}"] = frame["ranks"] == ranks
    found = {}
    for name, mask in masks.items():
        out = mask.to_numpy(bool)
        if out.any() and not out.all():
            rest = frame[~out]
            terms = fit_terms(candidates, _variables(rest), rest["seconds"].to_numpy(float))
            found[name] = float(np.median(relative_errors(terms, frame[out])))
    return found


def relative_errors(terms: Terms, frame: "pd.DataFrame") -> Array:
    """|predicted / measured - 1| of every row, %."""
    return np.abs(signed_errors(terms, frame))


def signed_errors(terms: Terms, frame: "pd.DataFrame") -> Array:
    """Predicted / measured - 1 of every row, %."""
    predicted = np.asarray(evaluate(terms, _variables(frame)), dtype=np.float64)
    seconds: Array = frame["seconds"].to_numpy(float)
    return PERCENT * (predicted / seconds - 1.0)


def h800(source: Source) -> list[Curve]:
    """H800: DeepEP's own rows, and H100's where the slower link is not the limit.

    The errors of a curve are those of README rows left out one by one, each predicted by the rest.
    """
    found = []
    for kernel in KERNELS:
        for base, readme in (
            (deepep_rows.low_latency(source, BASE, kernel), deepep_rows.low_latency_readme(kernel)),
            (deepep_rows.normal(source, BASE, kernel), deepep_rows.normal_readme(kernel)),
        ):
            if base is not None:
                found.append(h800_curve(base, readme))
    return found


def h800_curve(base: Timings, readme: "pd.DataFrame") -> Curve:
    """One kernel on H800 from H100's timings and DeepEP's own rows."""
    terms = _h800_terms(base, readme)
    left_out = np.concatenate(
        [
            relative_errors(_h800_terms(base, readme.drop(index=row)), readme.loc[[row]])
            for row in readme.index
        ]
    )
    fitted = ", ".join(
        f"EP{ranks:g} {sign:+.0f} %"
        for ranks, sign in zip(readme["ranks"], signed_errors(terms, readme), strict=True)
    )
    borrowed = _h800_borrowed(base, readme)
    return Curve(
        kernel=base.kernel,
        dtype="any",
        terms=terms,
        domain={
            "ranks": (float(readme["ranks"].min()), float(readme["ranks"].max())),
            "tokens": _domain(borrowed)["tokens"],
        },
        log_std=robust_std(np.log1p(left_out / PERCENT)),
        num_rows=len(readme) + len(borrowed),
        median_error_pct=float(np.median(left_out)),
        p90_error_pct=float(np.quantile(left_out, 0.9)),
        backend=base.backend,
        source=f"{LEGACY}; {base.source}",
        flag=f"derived: {base.backend} on H800 was timed at {readme['tokens'].iloc[0]:g} tokens; others as H100",
        note=f"{len(readme)} rows of DeepEP's README and {len(borrowed)} of H100 where the link is not the limit; "
        f"fitted README rows: {fitted}; errors are those of README rows left out one by one",
    )


def _h800_terms(base: Timings, readme: "pd.DataFrame") -> Terms:
    import pandas as pd

    frame = pd.concat([_h800_borrowed(base, readme), *([readme] * README_WEIGHT)], ignore_index=True)
    return fit_terms(
        (*H800_LINK, *NETWORK, *H800_WIDER[base.backend]), _variables(frame), frame["seconds"].to_numpy(float)
    )


def _h800_borrowed(base: Timings, readme: "pd.DataFrame") -> "pd.DataFrame":
    """H100's rows that hold on H800: few tokens inside a node, any number where the network is the limit."""
    frame = base.frame
    small = (frame["tokens"] <= H800_SMALL_TOKENS) & (frame["experts"] == deepep_rows.README_EXPERTS)
    wide = (frame["ranks"] >= H800_WIDE_RANKS) & ~frame["ranks"].isin(_readme_only(frame, readme))
    return frame[(small & (frame["ranks"] <= HOPPER_NODE)) | wide]


def _readme_only(frame: "pd.DataFrame", readme: "pd.DataFrame") -> list[float]:
    """Group sizes of which H100's frame has nothing but the README's own row: not to be counted twice."""
    counts = frame.groupby("ranks").size()
    return [ranks for ranks in readme["ranks"] if counts.get(ranks, 0) == 1]


def _curve(source: Source, system: str, timings: Timings, link: Sequence[str]) -> Curve:
    """With several nodes from own rows, or with Hopper's network terms where there are none."""
    place = fabric(system)
    if timings.frame["ranks"].max() > place.node_gpus:
        return fit(timings, (*link, *NETWORK, *WIDER[timings.backend]))
    curve = fit(timings, link)
    reader = deepep_rows.low_latency if timings.backend == "deepep-low-latency" else deepep_rows.normal
    hopper = reader(source, BASE, timings.kernel)
    if hopper is None:
        return curve
    donor = fit(hopper, (*link, *NETWORK, *WIDER[timings.backend]))
    one_node = place.domain == place.node_gpus
    limit = "" if one_node else "more over the link are predicted by their bytes, "
    beyond = "one node" if one_node else f"{place.domain}"
    return replace(
        curve,
        terms=(*curve.terms, *network_terms(donor.terms, fabric(BASE), place)),
        note=f"{curve.note}; timed with {place.node_gpus} ranks only: {limit}beyond {beyond} H100's network terms "
        "stand in, bytes by NIC bandwidth",
    )


def network_terms(terms: Terms, hopper: Fabric, place: Fabric) -> Terms:
    """Hopper's terms of ranks and network bytes for another fabric.

    Cuts of ``ranks`` count link domains, so they grow with the domain (8 to 72 GPUs); a network byte costs less in
    proportion to the NIC's bandwidth; fixed costs stay, per domain.
    """
    found = []
    for text, coefficient in terms:
        if "ranks" not in text and "network_bytes" not in text:
            continue
        widened = place.domain / hopper.domain
        scale = hopper.nic_gb_per_s / place.nic_gb_per_s if "network_bytes" in text else 1.0
        if "ranks" in text:
            scale /= _growth(text, widened)
        found.append((_widen(text, widened), coefficient * scale))
    return tuple(found)


def _growth(text: str, factor: float) -> float:
    """How much longer a cut of ``ranks`` becomes; the cut that only says "left the domain" stays one wide."""
    return 1.0 if f"ranks[{HOPPER_NODE}:{HOPPER_NODE + 1}]" in text else factor


def _widen(text: str, factor: float) -> str:
    step = f"ranks[{HOPPER_NODE}:{HOPPER_NODE + 1}]"
    if step in text:
        low = round(HOPPER_NODE * factor)
        return text.replace(step, f"ranks[{low}:{low + 1}]")

    def grown(match: "re.Match[str]") -> str:
        low, high = (part and str(round(int(part) * factor)) for part in match.groups())
        return f"ranks[{low}:{high}]"

    return re.sub(r"ranks\[(\d+):(\d*)\]", grown, text)


def _variables(frame: "pd.DataFrame") -> dict[str, Any]:
    return {name: frame[name].to_numpy(float) for name in VARIABLES}


def _domain(frame: "pd.DataFrame") -> dict[str, tuple[float, float]]:
    return {name: (float(frame[name].min()), float(frame[name].max())) for name in ("ranks", "tokens")}
