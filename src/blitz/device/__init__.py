"""How a run is spread over devices. Models and tasks do not know."""
