"""What a scheduler takes from the scheduler that a model was trained with."""

import inspect
from typing import Any, Final

import torch

from lit_hier.errors import InputError, one_line

_BETAS: Final = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
_CLIPPING: Final = (
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)
_VARIANCE: Final = "variance_type"
_TRAINED: Final = (*_BETAS, "prediction_type", *_CLIPPING, _VARIANCE)


def inherit(scheduler: Any, trained: Any) -> Any:
    """Return the scheduler of a run, with the settings that a model was trained with.

    These are the noise schedule, the prediction type and the clipping of x_0. What a user gives
    besides, such as the order of a solver, stays. A fixed variance is a choice of the sampler: one
    that is not given is inherited.

    Args:
        scheduler: What the user gives; None for the ancestral sampler. Arguments at which its
            constructor was left to its defaults are not given.
        trained: The scheduler that came with the model.

    Returns:
        A diffusers scheduler.

    Raises:
        InputError: An argument that is given contradicts the training, or the scheduler cannot
            take the model's noise schedule.
    """
    from diffusers import DDPMScheduler  # takes seconds

    if "beta_schedule" not in trained.config:
        if scheduler is None:
            return trained
        raise InputError(
            f"scheduler: the model comes with {type(trained).__name__}, which has no noise"
            " schedule to inherit; give a model that denoises images noised with alpha_t"
        )
    if scheduler is None:
        if isinstance(trained, DDPMScheduler):
            return trained
        # Else diffusers would leave out what the file leaves to the defaults of its own class.
        explicit = {k: v for k, v in trained.config.items() if k != "_use_default_values"}
        return _fit_betas(DDPMScheduler.from_config(explicit), explicit, trained)
    if not hasattr(scheduler, "config"):
        raise InputError(
            f"scheduler: {type(scheduler).__name__} is not a scheduler of diffusers; give one"
        )
    config = scheduler.config
    parameters = inspect.signature(type(scheduler).__init__).parameters
    names = [name for name in parameters if name in config]
    settings = {name: config[name] for name in names}
    for name in set(_TRAINED) & set(names) & set(trained.config):
        value = trained.config[name]
        if name not in _list_given(scheduler):
            settings[name] = value
        elif name != _VARIANCE and not _equal(config[name], value):
            if name in _BETAS and _has_betas(scheduler, trained):
                continue
            raise InputError(
                f"scheduler: {name} is {config[name]!r:.60}, but the model was trained with"
                f" {value!r:.60}; leave {name} out"
            )
    if settings == {name: config[name] for name in names}:
        return _fit_betas(scheduler, settings, trained)
    return _fit_betas(_build(type(scheduler), settings), settings, trained)


def _build(kind: Any, settings: dict[str, Any]) -> Any:
    try:
        return kind(**settings)
    except Exception as error:  # schedulers reject arguments by errors of many types
        raise InputError(
            f"scheduler: {kind.__name__} cannot take what the model was trained with:"
            f" {one_line(error)[:150]}; give another scheduler"
        ) from error


def _list_given(scheduler: Any) -> set[str]:
    """Return the names of the arguments that a scheduler was given."""
    config = scheduler.config
    parameters = inspect.signature(type(scheduler).__init__).parameters
    unset = config.get("_use_default_values", ())  # has those given by position too
    return {
        name
        for name, parameter in parameters.items()
        if name in config and not (name in unset and _equal(config[name], parameter.default))
    }


def _fit_betas(scheduler: Any, settings: dict[str, Any], trained: Any) -> Any:
    """Hand over the model's betas if their description does not lead a scheduler to them."""
    if not hasattr(scheduler, "betas") or _has_betas(scheduler, trained):
        return scheduler
    kind = type(scheduler)
    names = inspect.signature(kind.__init__).parameters
    if "trained_betas" in names:
        settings = {name: value for name, value in settings.items() if name in names}
        settings |= {"trained_betas": trained.betas.tolist()}
        if "rescale_betas_zero_snr" in names:
            settings["rescale_betas_zero_snr"] = False
        scheduler = _build(kind, settings)
        if _has_betas(scheduler, trained):
            return scheduler
    raise InputError(
        f"scheduler: {kind.__name__} cannot take the noise schedule that the model was trained"
        f" with, {trained.config.beta_schedule}; give another scheduler"
    )


def _has_betas(scheduler: Any, trained: Any) -> bool:
    mine, its = scheduler.betas, trained.betas
    return mine.shape == its.shape and torch.allclose(mine, its, rtol=1e-4, atol=1e-7)


def _equal(one: Any, other: Any) -> bool:
    """Compare settings, which may be lists, tuples or arrays."""
    lists = [
        x.tolist() if hasattr(x, "tolist") else list(x) if isinstance(x, tuple) else x
        for x in (one, other)
    ]
    return bool(lists[0] == lists[1])
