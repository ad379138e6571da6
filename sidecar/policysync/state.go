// Package policysync answers WHAT WAS PUSHED: it holds the delta ADS stream to the control plane, and keeps the last
// good state on disk, so that this sidecar and its Envoy can start again while the control plane is gone.
//
// # Concurrency
//
// One goroutine, [Client.Run], owns the stream and the state.
//
// It imports identity/meshname, sidecar/policyset and go-control-plane; never tenantstore, xds or etcd.
package policysync

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tenantmesh/tenantmesh/sidecar/durable"
)

// Resource is one resource as it was pushed.
type Resource struct {
	Version string `json:"version"`
	Body    []byte `json:"body"`
}

// State is everything that was pushed: by type and name.
type State struct {
	Principal string                         `json:"principal"` // whose state it is
	Revision  int64                          `json:"revision"`
	Resources map[string]map[string]Resource `json:"resources"`
}

// Any returns a resource as it travelled.
func (r Resource) Any(typeURL string) *anypb.Any { return &anypb.Any{TypeUrl: typeURL, Value: r.Body} }

type stateFile struct {
	SHA256 string          `json:"sha256"` // hex, of State's bytes
	State  json.RawMessage `json:"state"`
}

// Load returns the state at path: an empty one when there is no file, and an error when the file is torn, was
// changed, or belongs to another principal.
func Load(path, principal string) (*State, error) {
	empty := &State{Principal: principal, Resources: map[string]map[string]Resource{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	var file stateFile
	if err := json.Unmarshal(text, &file); err != nil {
		return empty, fmt.Errorf("%s is torn: %w", path, err)
	}
	if sum := sha256.Sum256(file.State); hex.EncodeToString(sum[:]) != file.SHA256 {
		return empty, fmt.Errorf("%s was changed: its checksum does not match", path)
	}
	state := &State{}
	if err := json.Unmarshal(file.State, state); err != nil {
		return empty, fmt.Errorf("%s: %w", path, err)
	}
	if state.Principal != principal {
		return empty, fmt.Errorf("%s must be the state of %s (is of %s)", path, principal, state.Principal)
	}
	if state.Resources == nil {
		state.Resources = map[string]map[string]Resource{}
	}
	return state, nil
}

// Save writes the state atomically, for this user only. There is no secret in it.
func (s *State) Save(path string) error {
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	text, err := json.Marshal(stateFile{hex.EncodeToString(sum[:]), body})
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text)
}
