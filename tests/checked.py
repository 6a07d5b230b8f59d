"""What the conformance checks are given, and what they say."""

import torch


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def failed(checks):
    return [check.name for check in checks.failed]


def skipped(checks):
    return {check.name: check.message for check in checks.checks if check.status == "skipped"}


def message_of(checks):
    (only,) = checks.failed
    return only.message
