// Package testmodels writes small models of the families that layout rules
// know, for tests of several packages.
package testmodels
