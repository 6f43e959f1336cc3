"""The work that is too slow for a request."""

from __future__ import annotations

from decimal import Decimal

from fairqued import current_task, task


# Decimal is no JSON. It is accepted because the annotations say how to restore it, in the worker and in `result()`.
@task(max_retries=2)
def invoice(hours: Decimal, rate: Decimal) -> dict[str, Decimal]:
    """Work out an invoice of the user whose task this is."""
    net = hours * rate
    tax = (net * Decimal("0.20")).quantize(Decimal("0.01"))
    current_task().logger.info("an invoice for %s", current_task().user_id)
    return {"net": net, "tax": tax, "total": net + tax}
