"""Forms made from type hints, and what was filled in as typed values.

    form = form_of(Trip.run)
    form.to_json()                            what the page draws
    form.read({"order": {"id": "7"}})         ([Order(id=7)], {}) or (None, {"order.id": "..."})

Pure: nothing here talks to a server or to a page.
"""

from trellis.lab.flights.forms.fields import Field, Form
from trellis.lab.flights.forms.functions import Handler, Handlers, any_form, form_of, handlers_of

__all__ = ["Field", "Form", "Handler", "Handlers", "any_form", "form_of", "handlers_of"]
