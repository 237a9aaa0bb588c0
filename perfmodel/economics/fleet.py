"""How many GPUs a day of traffic takes at least: arithmetic on what one GPU can do."""

from dataclasses import dataclass

from perfmodel.units import HOUR, MEGA

HOURS_PER_DAY = 24.0
DAY = HOURS_PER_DAY * HOUR


@dataclass(frozen=True, slots=True)
class DailyTraffic:
    """Tokens of one day."""

    input_tokens: float
    """Of all prompts, those found in a cache included."""
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """GPUs for a day's traffic, and what they cost."""

    prefill_gpus: float
    decode_gpus: float
    usd_per_day: float
    usd_per_million_output_tokens: float
    """All cost on the output."""

    @property
    def gpus(self) -> float:
        """Of both kinds; not rounded to whole nodes."""
        return self.prefill_gpus + self.decode_gpus


def least_fleet(
    traffic: DailyTraffic,
    *,
    input_tokens_per_s_per_gpu: float,
    output_tokens_per_s_per_gpu: float,
    usd_per_gpu_hour: float,
) -> Fleet:
    """GPUs that do nothing but this traffic, spread evenly over the day and every GPU always at its best.

    GPUs of a phase = tokens per day / (86,400 s x tokens per second and GPU), where input counts what caches have and
    so does ``input_tokens_per_s_per_gpu``. A real fleet has more: nights and days, batches that are not full, spares.
    """
    prefill = traffic.input_tokens / DAY / input_tokens_per_s_per_gpu
    decode = traffic.output_tokens / DAY / output_tokens_per_s_per_gpu
    usd = (prefill + decode) * HOURS_PER_DAY * usd_per_gpu_hour
    return Fleet(prefill, decode, usd, usd / traffic.output_tokens * MEGA)
