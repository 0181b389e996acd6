//! Finds PostgreSQL's server programs on this machine. Under [`PrivateCluster`](super::PrivateCluster),
//! which runs them.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{anyhow, bail, ensure};

/// The oldest major version whose features the migrations use.
const OLDEST: u32 = 15;

/// What a cluster needs; distributions put clients elsewhere, and none is needed.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Where distributions install server programs, one folder a major version; `*` stands for the version.
const VERSIONED: [&str; 8] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/lib/postgresql*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/lib/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// A folder with `initdb`, `pg_ctl` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// Looks in `explicit` (`OUTGATE_PG_BIN`) and nowhere else if it is given, otherwise in `PATH`, then in
    /// the distribution's versioned folders, newest first.
    ///
    /// `made_by` is the major version that made an existing cluster: no other can open it.
    ///
    /// # Errors
    /// One sentence that says what was looked for and how to get it.
    pub fn find(explicit: Option<&Path>, made_by: Option<u32>) -> anyhow::Result<Self> {
        if let Some(folder) = explicit {
            return Self::explicit(folder, made_by);
        }
        let mut unfit = Vec::new();
        for folder in in_path().into_iter().chain(in_versioned_folders()) {
            let Ok(found) = Self::at(&folder) else { continue };
            if found.opens(made_by) {
                return Ok(found);
            }
            unfit.push(format!("{} in {}", found.major, found.folder.display()));
        }
        let wanted = made_by.map_or_else(|| format!("{OLDEST} or newer"), |major| major.to_string());
        let seen = if unfit.is_empty() { String::new() } else { format!(" (only {})", unfit.join(", ")) };
        bail!(
            "PostgreSQL {wanted} was not found{seen}: install its server package, such as with \
             “apt-get install --no-install-recommends postgresql”, or unpack one anywhere and set OUTGATE_PG_BIN to the \
             folder that has initdb, pg_ctl and postgres."
        )
    }

    fn explicit(folder: &Path, made_by: Option<u32>) -> anyhow::Result<Self> {
        let found =
            Self::at(folder).map_err(|mistake| anyhow!("OUTGATE_PG_BIN is {}, but {mistake}.", folder.display()))?;
        ensure!(
            found.major >= OLDEST,
            "OUTGATE_PG_BIN is {}, which is PostgreSQL {}: version {OLDEST} or newer is needed.",
            folder.display(),
            found.major,
        );
        if let Some(made_by) = made_by {
            ensure!(
                found.major == made_by,
                "OUTGATE_PG_BIN is {}, which is PostgreSQL {}, but the cluster in the data directory was made by \
                 {made_by}: set it to a folder of PostgreSQL {made_by}.",
                folder.display(),
                found.major,
            );
        }
        Ok(found)
    }

    /// The programs in `folder`, of whatever version.
    fn at(folder: &Path) -> anyhow::Result<Self> {
        for program in PROGRAMS {
            ensure!(folder.join(program).is_file(), "there is no {program} in it");
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| not_runnable(folder, &error))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match major_version(&said) {
            Some(major) => Ok(Self { folder: folder.to_owned(), major }),
            None => bail!("its postgres does not run: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    fn opens(&self, made_by: Option<u32>) -> bool {
        made_by.map_or(self.major >= OLDEST, |made_by| self.major == made_by)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// 15, 16, 17, …
    pub fn major(&self) -> u32 {
        self.major
    }
}

fn not_runnable(folder: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("its postgres cannot be run as this user ({error}): {}", folder.join("postgres").display())
}

/// `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`, `… 18beta1`.
fn major_version(said: &str) -> Option<u32> {
    let version = said.split_once("(PostgreSQL) ")?.1;
    let digits = version.find(|character: char| !character.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// The folders of every `pg_ctl` in `PATH`. A symbolic link counts for the folder that it leads to,
/// since a distribution may link this one program and not those that it calls.
fn in_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = Vec::new();
    for folder in env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        let Ok(program) = fs::canonicalize(folder.join("pg_ctl")) else { continue };
        folders.extend(program.parent().map(Path::to_owned));
        folders.push(folder);
    }
    folders
}

fn in_versioned_folders() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = VERSIONED.iter().flat_map(|pattern| expand(pattern)).collect();
    found.sort_by(|(one, _), (other, _)| other.cmp(one));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// The folders that a pattern stands for, with their versions.
fn expand(pattern: &str) -> Vec<(u32, PathBuf)> {
    let Some((before, after)) = pattern.split_once('*') else { return Vec::new() };
    let Some((parent, prefix)) = before.rsplit_once('/') else { return Vec::new() };
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.split('.').next()?.parse().ok()?;
            Some((version, PathBuf::from(format!("{parent}/{name}{after}"))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn the_version_is_read_from_what_postgres_says_of_itself() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major_version("sh: postgres: not found"), None);
    }
}
