//! The chart of Outbound Volume: bars, what is usual and what is allowed, in a picture that is stretched to the room there
//! is. All text stands beside it.

use time::{Duration, OffsetDateTime, macros::format_description};

use super::{outbound_volume::in_words, wording};
use crate::policy::{
    limit::{Holding, Window, unusual_beyond},
    usual::{WEEKS, usual, usual_on},
    volume::{Count, Period, Subject, Unit, hour_of, scale},
};

/// In the chart's own units: as many across as it is wide, a thousand from the top down.
pub struct Chart {
    /// What it shows, for who cannot see it.
    pub label: String,
    pub width: usize,
    pub bars: Vec<Bar>,
    /// The path of what is usual; empty where nothing is.
    pub usual: String,
    /// Where limits lie that are not far above everything else.
    pub limits: Vec<i64>,
    /// The path of the limit that goes by what is usual, in the same way; empty where there is none.
    pub unusual: String,
    /// All limits that hold here, in words.
    pub limits_in_words: Vec<String>,
    /// The scale, from the top down.
    pub scale: [String; 3],
    /// Where each quarter begins.
    pub quarters: [String; 4],
}

/// A chart with all that stands beside it.
pub struct Charted {
    pub chart: Chart,
    pub is_today: bool,
    /// What the unit is called.
    pub unit_words: &'static str,
    /// Whether anything is known to be usual.
    pub is_usual_known: bool,
    /// Each step with its counts, and what is usual in the unit: hours that are to come are left out.
    pub steps: Vec<(String, Count, Option<i64>)>,
}

impl Charted {
    /// How long before a period counts are needed to know what is usual in it.
    pub fn looks_back() -> Duration {
        Duration::weeks(WEEKS.into()) + Duration::HOUR
    }

    /// Of what this subject has sent by hour; `first` is the hour of the first mail that is known of, `holding` the limits
    /// that hold for whose mail it is.
    pub fn of(
        subject: &Subject,
        (hours, first): (&[(OffsetDateTime, Count)], Option<OffsetDateTime>),
        holding: &[Holding],
        (unit, period): (Unit, Period),
        now: OffsetDateTime,
    ) -> Self {
        let usual = |at: OffsetDateTime| match period {
            Period::Today => usual(subject, hours, first, at),
            Period::FourWeeks => usual_on(hours, first, at),
        };
        let steps = period.by_step(now, hours.iter().copied());
        let usual: Vec<_> = steps.iter().map(|(at, _)| usual(*at).map(|usual| usual.get(unit))).collect();
        let limits = (limit_lines(holding, unit, period), unusual_line(holding, &usual, unit, period));
        let past = steps.iter().zip(&usual).filter(|((at, _), _)| *at <= hour_of(now));
        Self {
            chart: Chart::of(&steps, &usual, limits, (unit, period)),
            is_today: period == Period::Today,
            unit_words: unit.words().1,
            is_usual_known: usual.iter().any(Option::is_some),
            steps: past.map(|((at, count), usual)| (step_in_short(*at, period), *count, *usual)).collect(),
        }
    }

    /// All of it together.
    pub fn total(&self) -> Count {
        self.steps.iter().map(|(_, count, _)| *count).sum()
    }
}

/// What was sent in one step.
pub struct Bar {
    pub x: usize,
    pub y: i64,
    pub height: i64,
    /// What it stands for.
    pub title: String,
}

/// How wide the place of one bar is, and how much of it stays free before it.
const PLACE: usize = 10;
const GAP: usize = 1;
/// How high the chart is.
const HEIGHT: i64 = 1000;
/// A limit is drawn if it is at most so many times as high as all else.
const NEAR: i64 = 3;

/// How many are allowed in each step by the limit that goes by what is usual, and the same in words.
type Unusual = (Vec<Option<i64>>, String);

impl Chart {
    /// `usual` has what is usual in each step, as far as that is known.
    fn of(
        steps: &[(OffsetDateTime, Count)],
        usual: &[Option<i64>],
        (limits, unusual): (Vec<(i64, String)>, Option<Unusual>),
        (unit, period): (Unit, Period),
    ) -> Self {
        let highest = steps.iter().map(|(at, count)| (count.get(unit), *at)).max_by_key(|(count, _)| *count);
        let (highest, at) = highest.unwrap_or((0, OffsetDateTime::UNIX_EPOCH));
        let most = usual.iter().flatten().fold(highest, |most, usual| most.max(*usual));
        let is_near = |limit: &i64| *limit <= most.max(1).saturating_mul(NEAR);
        let near: Vec<i64> = limits.iter().map(|(limit, _)| *limit).filter(is_near).collect();
        let (unusual, unusual_in_words) = unusual.unzip();
        let unusual = unusual.filter(|unusual| unusual.iter().flatten().all(is_near)).unwrap_or_default();
        let top = near.iter().chain(unusual.iter().flatten()).fold(most, |most, limit| most.max(*limit));
        let top = scale(top);
        let bar = |(index, (at, count)): (usize, &(OffsetDateTime, Count))| {
            let count = count.get(unit);
            // Few are not none.
            let height = height(count, top).max(if count > 0 { 8 } else { 0 });
            let title = format!("{}: {}", step_in_words(*at, period), in_words(count, unit));
            Bar { x: index * PLACE + GAP, y: HEIGHT - height, height, title }
        };
        let quarter = |quarter: usize| {
            let step = steps.get(quarter * steps.len() / 4);
            step.map(|(at, _)| step_in_short(*at, period)).unwrap_or_default()
        };
        Self {
            label: format!(
                "Chart: {} by {}. Most: {}, {}. The table has all figures.",
                unit.words().1,
                if period == Period::Today { "hour" } else { "day" },
                in_words(highest, unit),
                step_in_words(at, period),
            ),
            width: steps.len() * PLACE,
            bars: steps.iter().enumerate().filter(|(_, (_, count))| count.get(unit) > 0).map(bar).collect(),
            usual: line(usual, top),
            limits: near.into_iter().map(|limit| HEIGHT - height(limit, top)).collect(),
            unusual: line(&unusual, top),
            limits_in_words: limits.into_iter().map(|(_, words)| words).chain(unusual_in_words).collect(),
            scale: [top, top / 2, 0].map(wording::number),
            quarters: [0, 1, 2, 3].map(quarter),
        }
    }
}

fn height(count: i64, top: i64) -> i64 {
    i64::try_from(i128::from(count) * i128::from(HEIGHT) / i128::from(top)).unwrap_or(HEIGHT)
}

/// A line from step to step at the height of each, with gaps where nothing is known.
fn line(usual: &[Option<i64>], top: i64) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for (step, usual) in usual.iter().enumerate() {
        if let Some(usual) = usual {
            let (left, right, y) = (step * PLACE, (step + 1) * PLACE, HEIGHT - height(*usual, top));
            let to = if is_drawing { format!("V{y}") } else { format!("M{left} {y}") };
            path.push_str(&format!("{to}H{right}"));
        }
        is_drawing = usual.is_some();
    }
    path
}

/// The limits that can be seen in a chart of this unit and period: how many are allowed, and the same in words.
fn limit_lines(holding: &[Holding], unit: Unit, period: Period) -> Vec<(i64, String)> {
    let window = match period {
        Period::Today => Window::Hour,
        Period::FourWeeks => Window::Day,
    };
    let holding = holding.iter().filter(|holding| holding.kind.unit == unit && holding.kind.window == window);
    let line = |holding: &Holding| {
        let most = i64::from(holding.limit.most?);
        let raised =
            holding.raised.map(|raised| format!(", raised: {}", raised.words(holding.kind))).unwrap_or_default();
        Some((most, format!("{} in {}, set by {}{raised}", in_words(most, unit), window.words(), holding.set_by)))
    };
    holding.filter_map(line).collect()
}

/// The limit that goes by what is usual, if one holds here.
fn unusual_line(holding: &[Holding], usual: &[Option<i64>], unit: Unit, period: Period) -> Option<Unusual> {
    let is_it = |holding: &&Holding| holding.kind.unit == unit && holding.kind.window == Window::Usual;
    let holding = holding.iter().find(is_it).filter(|_| period == Period::Today)?;
    let floor = holding.limit.most?;
    let kind = holding.kind;
    let allowed = usual.iter().map(|usual| usual.map(|usual| unusual_beyond(kind, floor, usual).into())).collect();
    let floor = in_words(floor.into(), unit);
    let words = format!("{} times the usual, or {floor}, in an hour, set by {}", kind.factor(), holding.set_by);
    Some((allowed, words))
}

fn step_in_words(at: OffsetDateTime, period: Period) -> String {
    let format = match period {
        Period::Today => format_description!("[hour]:00 UTC"),
        Period::FourWeeks => format_description!("[day padding:none] [month repr:long]"),
    };
    at.format(format).unwrap_or_default()
}

/// For the scale of times and the table.
fn step_in_short(at: OffsetDateTime, period: Period) -> String {
    let format = match period {
        Period::Today => format_description!("[hour]:00"),
        Period::FourWeeks => format_description!("[day padding:none] [month repr:short]"),
    };
    at.format(format).unwrap_or_default()
}
