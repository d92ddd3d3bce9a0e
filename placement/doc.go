// Package placement decides which rank lies on which device. It is pure: the
// caller says which devices there are and what is free on each, and keeps the
// account of what it gave away. internal/job asks it; commands and the library
// pass on what a user wants where.
package placement
