"""The coordinator: learns from outcomes, plans every slot, guards the budget."""
