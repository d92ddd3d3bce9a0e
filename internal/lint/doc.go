// Package lint holds the house rules that a compiler does not check, as
// tests: which package may import which, and that every package says what it
// owns.
package lint
