//! `postern audit`: what was refused, who came in, and what was changed.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{CliError, Reach, ban, output};
use crate::admin::{Answer, Command};
use crate::audit::Kind;
use crate::data_dir::DataDir;
use crate::store::{AuditEntry, AuditQuery};

/// Show the audit log, the newest entries last
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only what happened within this time: a number with s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = ban::seconds)]
    since: Option<u64>,
    /// Only entries about this principal: realm:name, or a name in any realm; for changes, the operator
    #[arg(long)]
    principal: Option<String>,
    /// Only entries about this address
    #[arg(long)]
    address: Option<IpAddr>,
    /// Only entries of this kind: login, login-failed, connect-refused, takeover, subscribe-denied, publish-denied,
    /// will-denied, withdrawn, ban, change, change-failed or gateway
    #[arg(long)]
    kind: Option<Kind>,
    /// As many entries at most, the newest
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 50)]
    number: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// Go on with what comes, until it is interrupted; needs a running gateway
    #[arg(long, short)]
    follow: bool,
}

/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_secs(1);

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<ExitCode, CliError> {
        let mut reach = Reach::open(dir, false).await?;
        let shown = self.show(&mut reach, out).await;
        reach.close().await?;
        shown.map(|()| ExitCode::SUCCESS)
    }

    async fn show(&self, reach: &mut Reach, out: &mut impl Write) -> Result<(), CliError> {
        if self.follow && !matches!(reach, Reach::Running(_)) {
            return Err(CliError::NothingToFollow);
        }
        // Asked for first: nothing comes between what is shown and what is followed.
        let mut last = match self.follow {
            true => newest(reach).await?,
            false => 0,
        };
        let lines = look(reach, self.query(), self.number).await?;
        self.print(&lines, true, out)?;
        if !self.follow {
            return Ok(());
        }
        last = lines.last().map_or(last, |line| line.id.max(last));
        loop {
            out.flush()?;
            tokio::time::sleep(PAUSE).await;
            let lines = self.after(reach, last).await?;
            last = lines.last().map_or(last, |line| line.id);
            self.print(&lines, false, out)?;
        }
    }

    /// What came after this entry, all of it, however much that is.
    async fn after(&self, reach: &mut Reach, last: i64) -> Result<Vec<AuditEntry>, CliError> {
        let query = AuditQuery {
            after: Some(last),
            since: None,
            ..self.query()
        };
        look(reach, query, usize::MAX).await
    }

    fn query(&self) -> AuditQuery {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let since = self.since.map(|since| now.saturating_sub(since) as i64);
        AuditQuery {
            since,
            principal: self.principal.clone(),
            address: self
                .address
                .map(|address| address.to_canonical().to_string()),
            kind: self.kind.map(|kind| kind.as_str().to_owned()),
            ..AuditQuery::default()
        }
    }

    fn print(
        &self,
        lines: &[AuditEntry],
        head: bool,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        if self.json {
            return output::json_lines(lines, out).map(drop);
        }
        let rows: Vec<_> = lines.iter().map(cells).collect();
        if !head && rows.is_empty() {
            return Ok(());
        }
        let names = match head {
            true => [
                "TIME",
                "KIND",
                "PRINCIPAL",
                "ADDRESS",
                "CLIENT",
                "COUNT",
                "WHAT",
            ],
            false => [""; 7],
        };
        let mut text = Vec::new();
        output::table(names, rows, &mut text)?;
        // Without names there is an empty line in their place.
        let skip = if head { 0 } else { 1 };
        out.write_all(&text[skip..])?;
        Ok(())
    }
}

/// The greatest id in the log; 0 in an empty one.
async fn newest(reach: &mut Reach) -> Result<i64, CliError> {
    let query = AuditQuery {
        limit: 1,
        ..AuditQuery::default()
    };
    let entries = page(reach, query).await?;
    Ok(entries.first().map_or(0, |line| line.id))
}

/// The newest entries, `number` at most, the oldest of them first. The log itself is bounded (`audit.max_entries`).
async fn look(
    reach: &mut Reach,
    mut query: AuditQuery,
    number: usize,
) -> Result<Vec<AuditEntry>, CliError> {
    let mut lines = Vec::new();
    while lines.len() < number {
        query.limit = (number - lines.len()).min(AuditQuery::MAX);
        let asked = query.limit;
        let page = page(reach, query.clone()).await?;
        let is_last = page.len() < asked;
        query.before = page.last().map(|line| line.id);
        lines.extend(page);
        if is_last {
            break;
        }
    }
    lines.reverse();
    Ok(lines)
}

async fn page(reach: &mut Reach, query: AuditQuery) -> Result<Vec<AuditEntry>, CliError> {
    match reach.execute(Command::Audit(query)).await? {
        Answer::Audit { entries } => Ok(entries),
        other => Err(CliError::Version(format!("{other:?}"))),
    }
}

/// Clients choose much of this: control characters are shown as what they are.
fn cells(line: &AuditEntry) -> [String; 7] {
    let or_dash = |text: &str| match text {
        "" => "-".to_owned(),
        text => output::plain(text),
    };
    let what = match (line.subject.as_str(), line.reason.as_str()) {
        ("", reason) => output::plain(reason),
        (subject, "") => output::plain(subject),
        (subject, reason) => format!("{}: {}", output::plain(subject), output::plain(reason)),
    };
    [
        output::time(line.at),
        line.kind.clone(),
        or_dash(&line.principal),
        or_dash(&line.address),
        or_dash(&line.client),
        line.count.to_string(),
        what,
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::audit::Note;
    use crate::cli::tests::postern;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        let line = ["audit"].iter().chain(line);
        Line::try_parse_from(line).unwrap().args
    }

    /// Writes so many entries of a kind.
    async fn note(reach: &Reach, kind: Kind, subjects: std::ops::Range<usize>) {
        let Reach::Direct { administration, .. } = reach else {
            panic!("a gateway runs");
        };
        for subject in subjects {
            let subject = &subject.to_string();
            let note = Note {
                subject,
                ..Note::default()
            };
            administration.audit().note(kind, note);
        }
        administration.audit().flush().await.unwrap();
    }

    #[tokio::test]
    async fn who_follows_sees_nothing_older_and_everything_newer() {
        let dir = tempfile::tempdir().unwrap();
        postern(dir.path(), &["user", "add", "ann", "--generate"])
            .await
            .unwrap();
        let dir = DataDir::locate(Some(dir.path()), Some(dir.path())).unwrap();
        let mut reach = Reach::open(&dir, false).await.unwrap();
        note(&reach, Kind::Ban, 0..3).await;
        let last = newest(&mut reach).await.unwrap();
        // Nothing of this kind is there, and so nothing to begin behind.
        let follow = args(&["--kind", "gateway", "-n", "0", "--follow"]);
        assert_eq!(follow.after(&mut reach, last).await.unwrap(), []);
        let all = args(&["--follow"]);
        assert_eq!(all.after(&mut reach, last).await.unwrap(), []);

        // More than two pages at once.
        let many = 2 * AuditQuery::MAX + 7;
        note(&reach, Kind::Gateway, 0..many).await;
        for args in [&follow, &all] {
            let lines = args.after(&mut reach, last).await.unwrap();
            let subjects = lines.iter().map(|line| line.subject.clone());
            let expected = (0..many).map(|subject| subject.to_string());
            assert!(subjects.eq(expected), "{} of {many}", lines.len());
        }
        let few = look(&mut reach, all.query(), AuditQuery::MAX + 1).await;
        let few = few.unwrap();
        let ends = [&few[0].subject, &few[AuditQuery::MAX].subject];
        assert_eq!(ends, [&(many - 1_001).to_string(), &(many - 1).to_string()]);
        reach.close().await.unwrap();
    }

    #[test]
    fn what_a_client_chose_cannot_write_to_the_terminal() {
        let line = AuditEntry {
            id: 1,
            kind: "login-failed".to_owned(),
            at: 0,
            last: 0,
            count: 3,
            principal: "a\u{1b}[2J\nb".to_owned(),
            address: "192.0.2.1".to_owned(),
            client: String::new(),
            subject: "t\r".to_owned(),
            reason: "wrong".to_owned(),
        };
        let cells = cells(&line);
        assert!(cells.iter().all(|cell| !cell.chars().any(char::is_control)));
        assert_eq!(cells[0], "1970-01-01 00:00:00Z");
        assert_eq!((&*cells[4], &*cells[6]), ("-", "t\\r: wrong"));
    }
}
