package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
)

// libcontainer runs the hooks, but two kinds of them not as the OCI runtime
// specification says (runtime.md, "Lifecycle", steps 9 and 13): poststart in
// `create` instead of `start`, and no poststop after one that has failed. These
// are taken out of its configuration and run here.

// poststartFile keeps the poststart hooks in the state directory until `start`.
const poststartFile = "poststart.json"

func savePoststart(g *globals, id string, hooks configs.HookList) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(hooks)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.root, id, poststartFile), text, 0o600)
}

func runPoststart(g *globals, container *libcontainer.Container) error {
	text, err := os.ReadFile(filepath.Join(g.root, container.ID(), poststartFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var commands []configs.CommandHook
	if err := json.Unmarshal(text, &commands); err != nil {
		return fmt.Errorf("%s: %w", poststartFile, err)
	}
	state, err := container.OCIState()
	if err != nil {
		return err
	}
	for i, hook := range commands {
		if err := hook.Run(state); err != nil {
			return fmt.Errorf("error running poststart hook #%d: %w", i, err)
		}
	}
	return nil
}

// destroy removes a container that has stopped, and runs its poststop hooks.
func destroy(container *libcontainer.Container) error {
	state, err := container.OCIState()
	if err != nil {
		return err
	}
	hooks := container.Config().Hooks // shared with the container
	poststop := hooks[configs.Poststop]
	delete(hooks, configs.Poststop)
	if err := container.Destroy(); err != nil {
		return err
	}
	state.Status, state.Pid = specs.StateStopped, 0
	for i, hook := range poststop {
		if err := hook.Run(state); err != nil {
			logrus.Warnf("error running poststop hook #%d: %v", i, err)
		}
	}
	return nil
}
