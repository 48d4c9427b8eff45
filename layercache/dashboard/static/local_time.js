// A moment in the viewer's time zone and way of writing; the day as well where it is not today's.
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };

export default {
  template: `<time :datetime="iso" :title="whole">{{ text }}</time>`,
  props: { ms: Number },
  computed: {
    moment() {
      return new Date(this.ms);
    },
    iso() {
      return this.moment.toISOString();
    },
    whole() {
      return this.moment.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
    },
    text() {
      const isToday = this.moment.toDateString() === new Date().toDateString();
      return this.moment.toLocaleString([], isToday ? CLOCK : { day: "numeric", month: "short", ...CLOCK });
    },
  },
};
