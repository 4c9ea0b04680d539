"""Side-by-side speed of this package and of other libraries: `make bench`. No part of the tests or of the package."""
