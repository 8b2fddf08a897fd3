package native

import (
	"errors"
	"os"

	"github.com/sirupsen/logrus"
)

// openLog sets up the logger that libcontainer writes to as well. The JSON form
// (level, msg, time) is what Podman, CRI-O and containerd read.
func openLog(g *globals) error {
	switch g.logFormat {
	case "", "text":
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	default:
		return errors.New("invalid log-format: " + g.logFormat)
	}
	if g.debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	if g.log == "" {
		return nil
	}
	// Synchronous, so that what was said before a crash can be read after it.
	file, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return err
	}
	logrus.SetOutput(file)
	return nil
}
