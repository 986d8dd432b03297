"""Every scaling once more, as its paper has it: plain numbers, one pair at a time."""

import math

import lengthwise as lw
from lengthwise.testing import Angles


def own(dim, theta):
    return [theta ** (-2 * n / dim) for n in range(dim // 2)]


def pi(s, dim, theta, window, length):
    """arXiv:2306.15595, equation 4: positions m become m / s."""
    return Angles([f / s.factor for f in own(dim, theta)])


def ntk(s, dim, theta, window, length):
    """arXiv:2309.00071, definition 1: base' = base s^(d / (d - 2))."""
    return Angles(own(dim, theta * s.factor ** (dim / (dim - 2))))


def dynamic_ntk(s, dim, theta, window, length):
    """The same with s = factor L / W - (factor - 1), where L is at least W."""
    now = s.factor * max(length, window) / window - (s.factor - 1)
    return Angles(own(dim, theta * now ** (dim / (dim - 2))))


def abf(s, dim, theta, window, length):
    """arXiv:2309.16039, section 4.1: another base."""
    return Angles(own(dim, s.base))


def yarn_by(factor, fast, slow, dim, theta, window):
    """arXiv:2309.00071, section 3.2, with the ramp of its code, which runs from pair to pair."""

    def pair(turns):  # solve W f_n / 2 pi = turns for n
        return dim * math.log(window / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), dim - 1)
    freqs = []
    for n, f in enumerate(own(dim, theta)):
        slowed = min(max((n - low) / (high - low or 0.001), 0.0), 1.0)
        freqs.append(slowed * f / factor + (1 - slowed) * f)
    return Angles(freqs, 0.1 * math.log(factor) + 1)  # t = factor squared, definition 3


def yarn(s, dim, theta, window, length):
    return yarn_by(s.factor, s.beta_fast, s.beta_slow, dim, theta, window)


def dynamic_yarn(s, dim, theta, window, length):
    """Section 3.3: the factor is max(1, L / W)."""
    return yarn_by(max(1.0, length / window), s.beta_fast, s.beta_slow, dim, theta, window)


def llama3(s, dim, theta, window, length):
    """Llama 3.1's `apply_scaling`: by wavelength."""
    trained = s.original or window
    freqs = []
    for f in own(dim, theta):
        wavelength = 2 * math.pi / f
        if wavelength < trained / s.high_freq_factor:
            freqs.append(f)
        elif wavelength > trained / s.low_freq_factor:
            freqs.append(f / s.factor)
        else:
            part = trained / wavelength - s.low_freq_factor
            part /= s.high_freq_factor - s.low_freq_factor
            freqs.append((1 - part) * f / s.factor + part * f)
    return Angles(freqs)


def giraffe(s, dim, theta, window, length):
    """arXiv:2308.10882, section 3.3, with the cut-offs of its code: keep, one slow turn, stand."""
    turn = 2 * math.pi / window
    linear = [f / s.factor for f in own(dim, theta)]
    return Angles([f if f >= turn else turn / 16 if f >= turn / 8 else 0.0 for f in linear])


def giraffe_linear(s, dim, theta, window, length):
    return Angles([f / s.scale for f in own(dim, theta)])


def divided(factors, dim, theta, by=1.0):
    return Angles([f / x for f, x in zip(own(dim, theta), factors, strict=True)], by)


def temperature(s, window):
    """arXiv:2402.13753, the default of its code."""
    return s.attention_factor or math.sqrt(1 + math.log(s.factor) / math.log(window))


def longrope(s, dim, theta, window, length):
    """arXiv:2402.13753, equation 2; section 3 has other factors for short texts."""
    short = s.short_factors if length <= window else ()
    return divided(short or s.factors, dim, theta, temperature(s, window))


def longrope2(s, dim, theta, window, length):
    """arXiv:2502.20082: the model itself up to its window."""
    if length <= window:
        return Angles(own(dim, theta))
    return divided(s.factors, dim, theta, temperature(s, window))


def clex(s, dim, theta, window, length):
    """arXiv:2310.16450, section 3: the row of the whole factor that holds the text."""
    factor = min(math.ceil(length / window), 1 + len(s.factors))
    return Angles(own(dim, theta)) if factor < 2 else divided(s.factors[factor - 2], dim, theta)


def log_temperature(s, dim, theta, window, length):
    """arXiv:2310.05209, section 4: max(1, ln(p + 1) / ln W) for the query at position p."""
    under = angles(s.over, dim, theta, window, length)
    return under._replace(sharpness=lambda head, p: max(1.0, math.log(p + 1) / math.log(window)))


def head_scale(s, dim, theta, window, length):
    """arXiv:2404.12224, section 4: a number for every head; the first layer's."""
    under = angles(s.over, dim, theta, window, length)
    return under._replace(sharpness=lambda head, p: s.scales[0][head])


FORMULAS = {
    lw.OwnScaling: lambda s, dim, theta, window, length: Angles(own(dim, theta)),
    lw.PI: pi,
    lw.NTK: ntk,
    lw.DynamicNTK: dynamic_ntk,
    lw.ABF: abf,
    lw.YaRN: yarn,
    lw.DynamicYaRN: dynamic_yarn,
    lw.Llama3: llama3,
    lw.Giraffe: giraffe,
    lw.GiraffeLinear: giraffe_linear,
    lw.LongRoPE: longrope,
    lw.LongRoPE2: longrope2,
    lw.CLEX: clex,
    lw.LogTemperature: log_temperature,
    lw.HeadScale: head_scale,
}


def angles(scaling, dim, theta, window, length):
    return FORMULAS[type(scaling)](scaling, dim, theta, window, length)
