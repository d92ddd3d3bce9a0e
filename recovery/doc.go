// Package recovery classifies what can go wrong in a load and says what to do
// about it: error classes, strategies, back-off. It is a leaf: it imports
// nothing of Gantry, does no I/O and never sleeps; callers do as it says.
package recovery
