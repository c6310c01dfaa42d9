"""Other people's workflows in the lab: flown by `session.fly`, with forms made from their type hints."""
