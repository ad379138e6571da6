// Package durable answers WHAT IS ON THE DISK AFTER A CRASH: a file that was written is there whole, or the one before it
// is, whatever happens meanwhile, also to the machine.
//
// It imports the standard library only.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path, for this user only. When it returns without an error, the new content outlives a
// loss of power: both the file and its name are on the disk (fsync(2): the folder needs one of its own).
func WriteFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// SyncFolder makes the names in a folder outlive a loss of power.
func SyncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
