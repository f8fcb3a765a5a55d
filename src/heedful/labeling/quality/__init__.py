"""How good the labels are: agreement, gold items, signs of carelessness, screening."""
