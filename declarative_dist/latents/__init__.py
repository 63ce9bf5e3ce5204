"""Values by name and the flat unconstrained vector behind them."""
