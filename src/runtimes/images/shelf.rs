//! Which images were loaded here from the object store, and when each was last used: a file for each, whose time is that. Where there
//! are too many, those that were not used for longest go.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bollard::{Docker, query_parameters::RemoveImageOptionsBuilder};

use crate::{runtimes::error::is_missing, submission::names::Digest};

/// A use is noted at most so often.
const NOTE: Duration = Duration::from_mins(1);

/// The images that were loaded here.
#[derive(Debug, Clone)]
pub struct Loaded {
    dir: PathBuf,
    most: usize,
}

impl Loaded {
    /// Those noted in `dir`; at most so many stay.
    pub fn new(dir: PathBuf, most: usize) -> Self {
        Self { dir, most }
    }

    /// Notes that an image was loaded, or is used.
    pub fn note(&self, image: &Digest) {
        let path = self.path(image);
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
        let is_fresh = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < NOTE));
        if is_fresh {
            return;
        }
        let noted = fs::create_dir_all(&self.dir).and_then(|()| fs::write(&path, image.as_str()));
        if let Err(error) = noted {
            tracing::warn!(%error, path = %path.display(), "the use of an image is not noted");
        }
    }

    /// Notes that an image which was loaded here is used; of another one nothing.
    pub fn touch(&self, image: &Digest) {
        if self.path(image).exists() {
            self.note(image);
        }
    }

    /// Removes the images that were not used for longest, until there are no more than may stay. One that runs stays.
    pub async fn prune(&self, docker: &Docker) {
        let Ok(mut loaded) = self.list() else { return };
        loaded.sort();
        let excess = loaded.len().saturating_sub(self.most);
        for (_, image) in loaded.into_iter().take(excess) {
            let options = RemoveImageOptionsBuilder::new().build();
            match docker
                .remove_image(image.as_str(), Some(options), None)
                .await
            {
                Ok(_) => tracing::info!(%image, "removed an image that was not used for longest"),
                Err(error) if is_missing(&error) => {}
                Err(error) => {
                    tracing::debug!(%image, %error, "an image stays");
                    continue;
                }
            }
            let _ = fs::remove_file(self.path(&image));
        }
    }

    fn list(&self) -> io::Result<Vec<(SystemTime, Digest)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let image = fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.parse().ok());
            if let (Some(image), Ok(metadata)) = (image, fs::metadata(&path)) {
                found.push((metadata.modified()?, image));
            }
        }
        Ok(found)
    }

    fn path(&self, image: &Digest) -> PathBuf {
        self.dir.join(image.as_str().replace(':', "-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_is_listed_and_other_images_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let loaded = Loaded::new(dir.path().join("loaded"), 1);
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        loaded.note(&a);
        loaded.touch(&b);
        let listed = loaded.list().expect("there");
        assert_eq!(
            listed
                .into_iter()
                .map(|(_, image)| image)
                .collect::<Vec<_>>(),
            [a]
        );
    }
}
