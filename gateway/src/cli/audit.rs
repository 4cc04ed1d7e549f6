//! `postern audit`: what was refused, who came in, and what was changed.

use std::collections::VecDeque;
use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{CliError, Reach, ban, output};
use crate::admin::{Answer, AuditLine, AuditQuery, Command};
use crate::audit::Kind;
use crate::data_dir::DataDir;

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
        let mut query = self.query();
        let mut lines = VecDeque::new();
        while lines.len() < self.number {
            query.limit = (self.number - lines.len()).min(AuditQuery::MAX);
            let asked = query.limit;
            let page = page(reach, query.clone()).await?;
            let is_last = page.len() < asked;
            query.before = page.last().map(|line| line.id);
            page.into_iter().for_each(|line| lines.push_front(line));
            if is_last {
                break;
            }
        }
        let lines: Vec<_> = lines.into();
        self.print(&lines, true, out)?;
        if !self.follow {
            return Ok(());
        }
        let mut last = lines.last().map(|line| line.id);
        loop {
            out.flush()?;
            tokio::time::sleep(PAUSE).await;
            let query = AuditQuery {
                after: last.or(Some(i64::MIN)),
                since: None,
                limit: AuditQuery::MAX,
                ..self.query()
            };
            let mut lines = page(reach, query).await?;
            lines.reverse();
            last = lines.last().map(|line| line.id).or(last);
            self.print(&lines, false, out)?;
        }
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

    fn print(&self, lines: &[AuditLine], head: bool, out: &mut impl Write) -> Result<(), CliError> {
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

async fn page(reach: &mut Reach, query: AuditQuery) -> Result<Vec<AuditLine>, CliError> {
    match reach.execute(Command::Audit(query)).await? {
        Answer::Audit { entries } => Ok(entries),
        other => Err(CliError::Version(format!("{other:?}"))),
    }
}

/// Clients choose much of this: control characters are shown as what they are.
fn cells(line: &AuditLine) -> [String; 7] {
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
    use super::*;

    #[test]
    fn what_a_client_chose_cannot_write_to_the_terminal() {
        let line = AuditLine {
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
