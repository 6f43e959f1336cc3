"""The tests of fairqued, in folders by reach."""
