"""Which of several failures came first."""

from liger.errors import GroupFailedError


def first_failure(group: BaseExceptionGroup[GroupFailedError]) -> GroupFailedError:
    """Return the failure that came first; the others often only follow from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, GroupFailedError), "except* lets nothing else through"
    return error
