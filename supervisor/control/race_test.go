//go:build race

package control

// raceDetector: what it adds to a read allocates.
const raceDetector = true
