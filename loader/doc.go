// Package loader is the data path of one worker: read → verify → transform →
// place, with bounded staging; and, on top of it, the library's Loader, which
// runs a whole load in this process with no server, no actors and no network.
package loader
