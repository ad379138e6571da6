package sink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tenantmesh/tenantmesh/ledger/trail"
)

// cursor is what the receiver has taken, in a file.
type cursor struct {
	path string

	Administrative int64             `json:"administrative"` // sequence of the newest event
	Tenants        map[string]*place `json:"tenants"`        // by UID
}

// place is what was taken of a tenant's events, and what went away that the receiver has not been told yet.
type place struct {
	trail.Position
	Missing trail.Missing `json:"missing,omitzero"`
}

func openCursor(path string) (*cursor, error) {
	c := &cursor{path: path, Tenants: map[string]*place{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	if err != nil {
		return nil, fmt.Errorf("the cursor of the audit sink, %s, cannot be read; without it, all that is kept is sent again: %w", path, err)
	}
	return c, nil
}

func (c *cursor) of(uid string) *place {
	p := c.Tenants[uid]
	if p == nil {
		p = &place{}
		c.Tenants[uid] = p
	}
	return p
}

// save makes the cursor last.
func (c *cursor) save() error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(c.path), filepath.Base(c.path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), c.path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(c.path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// lose adds what went away.
func (p *place) lose(m trail.Missing) {
	if p.Missing.Events == 0 {
		p.Missing.From = m.From
	}
	p.Missing.Events += m.Events
	p.Missing.Unknown = p.Missing.Unknown || m.Unknown
	if m.Events > 0 {
		p.Missing.To = m.To
	}
}
