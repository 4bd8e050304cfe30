"""An independent oracle for the tests: which positions of which parameters belong together, found by integer labels."""
